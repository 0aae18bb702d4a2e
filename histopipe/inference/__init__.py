"""New patches graded by a model in use: `histopipe predict`."""

from histopipe.inference.stage import score

__all__ = ["score"]
