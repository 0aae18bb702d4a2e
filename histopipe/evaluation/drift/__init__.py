"""Profiles of a model's patches, with which monitoring compares new patches."""
