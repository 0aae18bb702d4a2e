"""Checks for anything that keeps a checkout from working, reported in one table: `histopipe doctor`."""
