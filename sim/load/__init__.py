"""The loader, cycle by cycle."""
