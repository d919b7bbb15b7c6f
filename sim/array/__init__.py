"""The array, register by register, and its fast gear."""
