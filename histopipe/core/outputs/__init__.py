"""Whose files lie where something is to be written."""
