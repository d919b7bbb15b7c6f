"""The store engine, cycle by cycle."""
