"""Housekeeping: what runs left behind and nothing refers to any more, with its size and why nobody needs it."""

from histopipe.operations.gc.collection import KINDS, Kind, activity, collect, removing
from histopipe.operations.gc.leftover import Leftover

__all__ = ["KINDS", "Kind", "Leftover", "activity", "collect", "removing"]
