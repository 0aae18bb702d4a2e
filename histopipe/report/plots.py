"""Geometry of the page's drawings; the template turns them into SVG, whose colours follow the reader's theme."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from histopipe.evaluation.intervals import Measured

SIDE = 100.0  # of the unit square, in the drawing's units
MAX_POINTS = 300  # of one line; more can't be seen
BAR_WIDTH = 120.0  # of an interval's drawing
BAR_MARGIN = 5.0  # so that a dot at the end is whole


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        name: for the legend.
        style: CSS class that gives the colour.
        points: `x,y x,y …` in the drawing's units, y downwards.
        dots: places of the points where they are to be seen, else empty.
    """

    name: str
    style: str
    points: str
    dots: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Plot:
    """Curves in the unit square.

    Attributes:
        title: what is shown, also for those who can't see it.
        x_label, y_label: of the axes.
        lines: the curves.
        chance: a dotted line for comparison, as `Line.points`; empty for none.
        mark: the operating point, and what it is; None for none.
    """

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    chance: str = ""
    mark: tuple[float, float, str] | None = None


@dataclass(frozen=True)
class Bar:
    """An interval with its value, in pixels; `origin` is where 0 lies, if that is to be seen."""

    low: float
    value: float
    high: float
    origin: float | None


def line(name: str, style: str, x: Iterable[float], y: Iterable[float], dotted: bool = False) -> Line:
    """A curve from values between 0 and 1, thinned to what can be seen."""
    places = [(round(SIDE * a, 2), round(SIDE * (1 - b), 2)) for a, b in zip(x, y, strict=True)]
    if len(places) > MAX_POINTS:
        places = [places[number] for number in np.linspace(0, len(places) - 1, MAX_POINTS).round().astype(int)]
    return Line(name, style, as_points(places), tuple(places) if dotted else ())


def as_points(places: Sequence[tuple[float, float]]) -> str:
    """Places as an SVG polyline takes them."""
    return " ".join(f"{x:g},{y:g}" for x, y in places)


DIAGONAL = as_points([(0, SIDE), (SIDE, 0)])


def roc_plot(title: str, curves: Sequence[tuple[str, str, pd.DataFrame]], mark: Any = None) -> Plot:
    """ROC curves; `curves` hold name, style and table."""
    lines = tuple(line(name, style, table["fpr"], table["tpr"]) for name, style, table in curves)
    return Plot(title, "1 − specificity", "sensitivity", lines, DIAGONAL, mark)


def precision_recall_plot(title: str, name: str, table: pd.DataFrame, prevalence: float, mark: Any = None) -> Plot:
    """A precision-recall curve; chance is the share of positives."""
    level = round(SIDE * (1 - prevalence), 2)
    chance = as_points([(0, level), (SIDE, level)])
    lines = (line(name, "c0", table["recall"], table["precision"]),)
    return Plot(title, "recall = sensitivity", "precision", lines, chance, mark)


def calibration_plot(title: str, curves: Sequence[tuple[str, str, pd.DataFrame]], positive_class: str) -> Plot:
    """Reliability: share of positives against the mean probability, by bin."""
    lines = tuple(
        line(name, style, table["predicted"], table["observed"], dotted=True) for name, style, table in curves
    )
    return Plot(title, f"probability of {positive_class}", f"share of {positive_class}", lines, DIAGONAL)


def marked(x: float | None, y: float | None, what: str) -> tuple[float, float, str] | None:
    """The operating point in the drawing's units; None where it isn't defined."""
    return None if x is None or y is None else (round(SIDE * x, 2), round(SIDE * (1 - y), 2), what)


def bars(measured: Sequence[Measured], origin: float | None = None) -> list[Bar | None]:
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
