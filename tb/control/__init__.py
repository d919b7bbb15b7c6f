"""Bench of the sequencer."""
