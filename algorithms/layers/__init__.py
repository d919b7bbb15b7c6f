"""Layers of trainable networks."""
