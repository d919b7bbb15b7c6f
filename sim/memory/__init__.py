"""External memory and the memory ports, cycle by cycle."""
