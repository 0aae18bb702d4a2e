"""New patches graded by a model in use: `histopipe predict`."""
