"""Profiles of a model's test patches, against which monitoring compares new ones."""
