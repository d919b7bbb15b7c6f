"""Fetch, queues and semaphores, cycle by cycle."""
