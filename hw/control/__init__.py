"""Registers of the host, fetch and check of instructions, queues and semaphores."""
