"""Removal of what runs left behind and nothing refers to any more, listed with its size and the reason."""
