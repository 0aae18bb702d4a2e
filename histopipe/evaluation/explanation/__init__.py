"""Explanation of predictions: maps of evidence, a check of what they are worth, and a gallery of examples."""
