"""Benches of the update engine."""
