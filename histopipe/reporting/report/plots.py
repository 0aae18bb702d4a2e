"""Geometry of the page's drawings; the template turns them into SVG, whose colours follow the reader's theme."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from histopipe.evaluation.intervals import Measured
from histopipe.evaluation.metrics import Numbers

SIDE = 100.0  # of the unit square, in the drawing's units
MAX_POINTS = 300  # of one line; more can't be seen
TICKS, ROUND = 4, (1, 2, 5, 10)  # steps of an axis at most, and their leading digits
DOT, SMALLEST_DOT, LARGEST_DOT = 1.2, 0.8, 3.0  # radii: of a point, and of the cases with the fewest and most patches
BAR_WIDTH = 120.0  # of an interval's drawing
BAR_MARGIN = 5.0  # so that a dot at the end is whole


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        name: for the legend.
        style: CSS class that gives the colour.
        points: `x,y x,y …` in the drawing's units, y downwards; empty where dots aren't joined.
        dots: places and radii of the points where they are to be seen, else empty.
    """

    name: str
    style: str
    points: str
    dots: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True)
class Axis:
    """What an axis stands for.

    Attributes:
        low, high: values at its ends.
        ticks: place in the drawing's units, along the axis, and label.
    """

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]

    def share(self, values: pd.Series) -> pd.Series:
        """Values as shares of the axis' length."""
        return (values - self.low) / (self.high - self.low)


UNIT = Axis(0.0, 1.0, tuple((SIDE * tick / 4, f"{tick / 4:.2f}") for tick in range(5)))


@dataclass(frozen=True)
class Plot:
    """Curves in a square.

    Attributes:
        title: what is shown, also for those who can't see it.
        x_label, y_label: of the axes.
        x, y: the axes.
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
    x: Axis = UNIT
    y: Axis = UNIT


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
    return Line(name, style, as_points(places), tuple((a, b, DOT) for a, b in places) if dotted else ())


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


def history_plot(title: str, y_label: str, history: pd.DataFrame, columns: Mapping[str, tuple[str, str]]) -> Plot:
    """Curves by epoch, or by candidate where a classifier was chosen; `columns` hold name and style of each curve.

    What is no number, as a loss that overflowed, is left out.
    """
    x = round_axis(history["epoch"].to_numpy(float), whole=True)
    finite = history[list(columns)].replace([np.inf, -np.inf], np.nan)
    y = round_axis(finite.to_numpy(float))
    lines = tuple(
        line(name, style, x.share(history["epoch"][known]), y.share(finite[column][known]), dotted=True)
        for column, (name, style) in columns.items()
        for known in [finite[column].notna()]
    )
    return Plot(title, "candidate" if "c" in history else "epoch", y_label, lines, x=x, y=y)


def case_plot(title: str, cases: pd.DataFrame, accuracy: float | None) -> Plot:
    """Accuracy of every case, from the worst to the best; the larger the dot, the more patches."""
    values = cases["accuracy"].sort_values(kind="stable")
    radii = np.sqrt(cases["patches"] / cases["patches"].max())[values.index] * (LARGEST_DOT - SMALLEST_DOT)
    shares = (np.arange(len(values)) + 0.5) / max(1, len(values))
    dots = [
        (round(SIDE * x, 2), round(SIDE * (1 - y), 2), round(SMALLEST_DOT + radius, 2))
        for x, y, radius in zip(shares, values, radii, strict=True)
    ]
    lines = [Line(f"one of {len(values):,} cases; the larger, the more patches", "c0 many", "", tuple(dots))]
    level = None if accuracy is None else round(SIDE * (1 - accuracy), 2)
    if level is not None:
        lines.append(Line(f"all patches: {accuracy:.3f}", "grey", as_points([(0, level), (SIDE, level)])))
    return Plot(title, "share of cases, the worst first", "accuracy", tuple(lines))


def round_axis(values: Numbers, whole: bool = False) -> Axis:
    """An axis that holds all values; it ends at round numbers, or with `whole` at the values and has whole ones inside.

    What is no number doesn't count.
    """
    from matplotlib.ticker import MaxNLocator

    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    if low == high:
        spread = 0.5 if whole else 0.05
        low, high = low - spread, high + spread
    ticks = MaxNLocator(TICKS, steps=ROUND, integer=whole, min_n_ticks=1).tick_values(low, high)
    low, high = (low, high) if whole else (float(ticks[0]), float(ticks[-1]))
    inside = [float(tick) for tick in ticks if low <= tick <= high]
    return Axis(low, high, tuple((round(SIDE * (tick - low) / (high - low), 2), f"{tick:g}") for tick in inside))


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
