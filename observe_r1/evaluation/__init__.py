"""How well a model answers: accuracy and format on held-out questions, by difficulty."""
