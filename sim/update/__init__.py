"""The update engine: exact values and exact cycles."""
