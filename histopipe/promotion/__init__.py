"""The gate before the registry's champion, and the way back."""

from histopipe.promotion.stage import promote, rollback

__all__ = ["promote", "rollback"]
