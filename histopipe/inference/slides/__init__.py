"""Whole slides: their pixel size, the tissue on them, and tiles of it at the resolution that a model knows."""
