"""The tracking store: runs, the registry of models, and the packaging of the served model."""
