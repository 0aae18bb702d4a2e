"""Case ids and what counts as one case."""
