"""Draw a study."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histopipe.evaluation.figures import CURVE, MARK, escape_mathtext, new_figure
from histopipe.evaluation.intervals import interval_of
from histopipe.experiments.studies.record import StudyRow, StudySummary
from histopipe.experiments.studies.table import extent
from histopipe.reporting.comparison.figure import DRAWN_COLUMNS, finish_panel
from histopipe.reporting.comparison.table import COLUMNS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ABOVE, BELOW = -0.14, 0.2  # offsets from an architecture's line: of the mean, and of the single variants
LEGEND = {
    "folds": "bar: mean over folds with its 95 % interval by case; dots: single folds",
    "seeds": "bar: mean over seeds ± standard deviation; dots: single seeds",
}


def draw_study(content: StudySummary) -> Figure:
    """Draw a panel per metric, with a dot for each variant of a recipe and the mean above them."""
    ranking = content["ranking"]
    lines = -(-len(COLUMNS) // DRAWN_COLUMNS)
    figure = new_figure(10, lines * (1.15 + 0.42 * len(ranking)) + 0.7)
    panels = figure.subplots(lines, DRAWN_COLUMNS, sharey=True, squeeze=False)
    for axes, (metric, title) in zip(panels.flat, COLUMNS.items(), strict=True):
        for line, row in enumerate(ranking):
            _draw_row(axes, row, metric, line)
        finish_panel(axes, ranking, -0.75)
        axes.set_title(title, fontsize=10.5, loc="left")
    about = f"{content['dataset']}, {extent(content)}; positive class {content['positive_class']}"
    figure.suptitle(escape_mathtext(f"{about}\n{LEGEND[content['study']]}"), fontsize=11, x=0.01, ha="left")
    return figure


def _draw_row(axes: Axes, row: StudyRow, metric: str, line: int) -> None:
    values = [variant["test"][metric]["value"] for variant in row["variants"].values()]
    defined = [value for value in values if value is not None]
    axes.plot(defined, [line + BELOW] * len(defined), "o", markersize=5, color=MARK, alpha=0.7, markeredgecolor="none")
    bar = _bar(row, metric)
    if bar is None:
        return
    mean, *ends = bar
    axes.plot(ends, [line + ABOVE] * 2, color=CURVE, linewidth=2.5, alpha=0.55)
    axes.plot(mean, line + ABOVE, marker="D", markersize=6, color=CURVE)
    axes.annotate(f"{mean:.3f}", (mean, line + ABOVE), (0, 6), textcoords="offset points", ha="center", fontsize=8.5)


def _bar(row: StudyRow, metric: str) -> tuple[float, float, float] | None:
    """Return the mean and the ends of its bar; None where a variant leaves the metric undefined."""
    spread = row["spread"][metric]
    middle = spread["mean"]
    if middle is None:
        return None
    if "mean" in row:
        return interval_of(row["mean"][metric])
    deviation = spread["sd"] or 0.0
    return middle, max(0.0, middle - deviation), min(1.0, middle + deviation)
