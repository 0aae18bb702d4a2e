"""Intervals drawn inside the cells of a table, beside their numbers.

Drawn by the template and not by Matplotlib, which is for the page's figures: a report of seven models has 70 of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from histopipe.evaluation.intervals import Estimate

BAR_WIDTH = 120.0  # of an interval's drawing
BAR_MARGIN = 5.0  # so that a dot at the end is whole


@dataclass(frozen=True)
class Bar:
    """An interval with its value, in pixels; `origin` is where 0 lies, if that is to be seen."""

    low: float
    value: float
    high: float
    origin: float | None


def bars(measured: Sequence[Estimate], origin: float | None = None) -> list[Bar | None]:
    """Intervals on one scale, that of all of them and of `origin`; None for what isn't defined."""
    known = [found for found in measured if found["value"] is not None and found["low"] is not None]
    if not known:
        return [None] * len(measured)
    ends = [found[end] for found in known for end in ("low", "value", "high")] + ([] if origin is None else [origin])
    low, high = min(ends), max(ends)  # type: ignore[type-var]
    step = (BAR_WIDTH - 2 * BAR_MARGIN) / ((high - low) or 1.0)  # type: ignore[operator]

    def place(value: float | None) -> float:
        return round(BAR_MARGIN + (value - low) * step, 1)  # type: ignore[operator]

    zero = None if origin is None else place(origin)
    return [
        Bar(place(found["low"]), place(found["value"]), place(found["high"]), zero) if found in known else None
        for found in measured
    ]
