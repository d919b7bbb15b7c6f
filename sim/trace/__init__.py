"""Register traces of the array."""
