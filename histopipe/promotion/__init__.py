"""The gate before the registry's champion, and the way back."""
