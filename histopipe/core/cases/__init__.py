"""Case ids, and the definition of one case."""
