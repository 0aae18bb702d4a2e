"""Variants of the main run on request: the same recipe on every fold, or with other seeds, and what they say together.

A variant is the main run's training and evaluation with another split or seed and folders of its own; a summary sets
the variants of every architecture side by side.
"""
