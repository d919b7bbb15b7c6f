"""The update engine: momentum SGD and both pruned copies in one pass."""
