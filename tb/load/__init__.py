"""Bench of the loader."""
