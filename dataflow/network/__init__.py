"""What a network multiplies in a training step; no machine in it."""
