"""Benches of the whole machine."""
