"""Housekeeping: what runs left behind and nothing refers to any more, with its size and why nobody needs it."""
