"""The packed store of patches, its division into splits, and the order in which trainings read it."""
