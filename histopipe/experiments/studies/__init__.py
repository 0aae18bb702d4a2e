"""Variants of the main run: the same recipe on every fold, or with other seeds, and their joint summary.

A variant is the main run's training and evaluation with another split or seed and its own folders; a summary compares
the variants of all recipes.
"""
