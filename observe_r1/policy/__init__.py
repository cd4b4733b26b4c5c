"""The model being trained: groups packed, token log-probabilities, master weights, optimizers, and the update."""
