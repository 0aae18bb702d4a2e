"""Whole slides: their pixel size, their tissue, and tiles of it at the resolution that a model was trained on."""
