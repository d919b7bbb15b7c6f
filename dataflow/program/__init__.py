"""Machine programs of SAT: tensors in memory, instructions of products and updates, dependencies between them."""
