"""The published methods, a module each."""
