"""Benches of the store engine."""
