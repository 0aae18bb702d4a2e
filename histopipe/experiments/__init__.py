"""Trainings beyond the main run: variants and hyperparameter searches."""
