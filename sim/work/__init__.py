"""Whole pieces of work on the simulator: workloads, training, ablations, timelines."""
