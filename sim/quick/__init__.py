"""The quick gear: the exact gear walked once."""
