"""Training: recipes under their caps, an epoch loop that survives a kill, and the record of a trained model."""
