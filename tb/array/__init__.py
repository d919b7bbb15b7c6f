"""Benches of the array."""
