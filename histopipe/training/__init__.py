"""Training: recipes under their caps, an epoch loop that survives a kill, and what a trained model leaves behind."""

from histopipe.training.recipe import recipe_digest
from histopipe.training.stage import train

__all__ = ["recipe_digest", "train"]
