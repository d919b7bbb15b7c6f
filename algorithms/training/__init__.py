"""Training runs: data, recipes, optimizers, results."""
