"""The figures of a comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from histopipe.evaluation.figures import CURVE, GRID, REFERENCE, escape_mathtext, new_figure
from histopipe.evaluation.intervals import interval_of
from histopipe.reporting.comparison.pairs import SEPARATING
from histopipe.reporting.comparison.record import Comparison, NamedRow, RankedRow
from histopipe.reporting.comparison.table import COLUMNS, marks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DRAWN_COLUMNS = 3


def draw_comparison(content: Comparison) -> Figure:
    """Draw a panel per metric with a dot and its interval for each model, the best ROC AUC on top."""
    ranking = content["ranking"]
    lines = -(-len(COLUMNS) // DRAWN_COLUMNS)
    figure = new_figure(10, lines * (1.15 + 0.3 * len(ranking)) + 0.7)
    panels = figure.subplots(lines, DRAWN_COLUMNS, sharey=True, squeeze=False)
    for axes, (metric, title) in zip(panels.flat, COLUMNS.items(), strict=True):
        _draw_panel(axes, ranking, metric)
        axes.set_title(title, fontsize=10.5, loc="left")
    legend = {
        "\\*": "* trained under the caps of `quick`",
        "!": "! cases straddle the splits",
        "?": "? started from weights of unknown training cases",
        "†": "† also trained on unlisted cases",
    }
    if notes := [note for mark, note in legend.items() if any(mark in marks(row) for row in ranking)]:
        figure.supxlabel("    ".join(notes), fontsize=8.5, x=0.01, ha="left")
    first = ranking[0]
    title = (
        f"{content['dataset']}, test split: {first['cases']:,} cases, {first['patches']:,} patches; "
        f"95 % intervals by case; positive class {content['positive_class']}"
    )
    figure.suptitle(escape_mathtext(title), fontsize=11, x=0.01, ha="left")
    return figure


def _draw_panel(axes: Axes, ranking: Sequence[RankedRow], metric: str) -> None:
    for y, row in enumerate(ranking):
        value, low, high = interval_of(row["test"][metric])
        if not math.isnan(value):
            axes.plot([low, high], [y, y], color=CURVE, linewidth=2.5, alpha=0.55)
            axes.plot(value, y, marker="o", markersize=7, color=CURVE)
            axes.annotate(f"{value:.3f}", (value, y), (0, 7), textcoords="offset points", ha="center", fontsize=8.5)
    finish_panel(axes, ranking, -0.65)


def draw_pairs(content: Comparison) -> Figure:
    """Draw the difference in ROC AUC of every pair with its interval; the dot of a separable pair is filled."""
    pairs = content["pairs"]
    figure = new_figure(8, 1.5 + 0.3 * max(1, len(pairs)))
    axes = figure.subplots()
    for y, pair in enumerate(pairs):
        value, low, high = interval_of(pair["differences"][SEPARATING])
        if not math.isnan(value):
            color = CURVE if pair["separable"] else REFERENCE
            axes.plot([low, high], [y, y], color=color, linewidth=2.5, alpha=0.6)
            filled = color if pair["separable"] else "white"
            axes.plot(value, y, "o", markersize=7, color=color, markerfacecolor=filled)
    axes.axvline(0, color=REFERENCE, linewidth=1)
    axes.set_yticks(range(len(pairs)), [f"{pair['first']} − {pair['second']}" for pair in pairs])
    axes.set_ylim(max(1, len(pairs)) - 0.5, -0.5)
    if not pairs:
        axes.text(0.5, 0.5, "one model: nothing to compare", transform=axes.transAxes, ha="center", va="center")
    finish_axes(axes)
    axes.set_xlabel(
        "difference in ROC AUC, 95 % interval by case; filled: recipes separable after correction", fontsize=9
    )
    axes.set_title(f"{content['dataset']}, test split: pairs of models on the same cases", fontsize=11, loc="left")
    return figure


def finish_panel(axes: Axes, ranking: Sequence[NamedRow], top: float) -> None:
    """Label the y axis with the models, the first at 0 on top, and add a grid; `top` leaves room for a label."""
    axes.set_yticks(range(len(ranking)), [row["architecture"] + marks(row).replace("\\", "") for row in ranking])
    axes.set_ylim(len(ranking) - 0.5, top)
    axes.locator_params(axis="x", nbins=4)
    finish_axes(axes)


def finish_axes(axes: Axes) -> None:
    """Add a light grid behind the data and remove the frame."""
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
