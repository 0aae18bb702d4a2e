"""Training: recipes under their caps, an epoch loop that survives a kill, and what a trained model leaves behind."""
