"""Bars that show intervals inside the cells of a table, next to their numbers.

The template draws them, not Matplotlib, since a report on seven models has 70 of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from histopipe.evaluation.intervals import Estimate

BAR_WIDTH = 120.0  # pixels
BAR_MARGIN = 5.0  # pixels, so that a dot at the end isn't cut off


@dataclass(frozen=True)
class Bar:
    """The positions of a value and its interval, in pixels; `origin` is the position of 0, or None to hide it."""

    low: float
    value: float
    high: float
    origin: float | None


def bars(estimates: Sequence[Estimate], origin: float | None = None) -> list[Bar | None]:
    """Compute bars for estimates on a common scale, which includes `origin`; None for undefined ones."""
    defined = [estimate for estimate in estimates if estimate["value"] is not None and estimate["low"] is not None]
    if not defined:
        return [None] * len(estimates)
    ends = [estimate[end] for estimate in defined for end in ("low", "value", "high")]
    ends += [] if origin is None else [origin]
    low, high = min(ends), max(ends)  # type: ignore[type-var]
    step = (BAR_WIDTH - 2 * BAR_MARGIN) / ((high - low) or 1.0)  # type: ignore[operator]

    def pixels(value: float | None) -> float:
        return round(BAR_MARGIN + (value - low) * step, 1)  # type: ignore[operator]

    zero = None if origin is None else pixels(origin)
    return [
        Bar(pixels(estimate["low"]), pixels(estimate["value"]), pixels(estimate["high"]), zero)
        if estimate in defined
        else None
        for estimate in estimates
    ]
