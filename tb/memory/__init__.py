"""Bench of the memory ports."""
