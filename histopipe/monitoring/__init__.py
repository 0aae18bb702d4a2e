"""Drift: whether new patches still look like those that a model was made from, decided case by case."""
