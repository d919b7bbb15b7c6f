"""Closed forms of time: how long the array and the memory take."""
