"""What drives a design under test: lock step, memory, registers, a host."""
