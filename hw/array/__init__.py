"""The array engine: elements, edges, head and tail, capture of results."""
