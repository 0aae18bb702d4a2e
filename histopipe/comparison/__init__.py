"""Set the evaluated architectures of a data set side by side, by case."""

from histopipe.comparison.stage import compare

__all__ = ["compare"]
