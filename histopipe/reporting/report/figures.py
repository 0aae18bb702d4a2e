"""The report's figures that no earlier stage draws: curves of all models together, and learning curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from histopipe.evaluation.figures import REFERENCE, escape_mathtext, finish_unit_square, new_figure
from histopipe.reporting.report.drawings import SERIES, SIDE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curves = Sequence[tuple[str, pd.DataFrame]]  # each model's name and table, in the order of the ranking


def draw_roc_curves(curves: Curves) -> Figure:
    """Draw all models' ROC curves in one square; tables have columns `fpr` and `tpr`."""
    figure, axes = _square("chance")
    for number, (name, table) in enumerate(curves):
        colour = SERIES[number % len(SERIES)]
        axes.plot(table["fpr"], table["tpr"], color=colour, linewidth=2, label=escape_mathtext(name))
    axes.set(xlabel="1 - specificity", ylabel="sensitivity")
    finish_unit_square(axes, "lower right")
    return figure


def draw_calibrations(curves: Curves, positive_class: str) -> Figure:
    """Draw all models' reliability curves in one square; tables have columns `predicted` and `observed`."""
    figure, axes = _square("perfectly calibrated")
    for number, (name, table) in enumerate(curves):
        style: dict[str, Any] = {"color": SERIES[number % len(SERIES)], "linewidth": 2, "marker": "o", "markersize": 4}
        axes.plot(table["predicted"], table["observed"], label=escape_mathtext(name), **style)
    axes.set_xlabel(escape_mathtext(f"calibrated probability of {positive_class}"))
    axes.set_ylabel(escape_mathtext(f"observed share of {positive_class}"))
    finish_unit_square(axes, "below")
    return figure


def draw_learning(panel: Callable[[Axes, pd.DataFrame], None], y_label: str, history: pd.DataFrame) -> Figure:
    """Draw one panel of a training's history, without values that aren't numbers, such as a loss that overflowed."""
    figure = new_figure(SIDE, SIDE)
    axes = figure.add_subplot()
    panel(axes, history.replace([np.inf, -np.inf], np.nan))
    axes.set_ylabel(y_label)
    return figure


def _square(diagonal: str) -> tuple[Figure, Axes]:
    figure = new_figure(SIDE, SIDE)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=REFERENCE, linewidth=1, linestyle=":", label=diagonal)
    return figure, axes
