"""The gate before the registry's champion, and the way back."""

from histopipe.promotion.stage import held_back, promote, rollback

__all__ = ["held_back", "promote", "rollback"]
