"""Draw studies whose variants differ in kind: schemes in parallel, and the learning curve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from histopipe.evaluation.figures import escape_mathtext, new_figure
from histopipe.evaluation.intervals import Estimate, interval_of
from histopipe.experiments.studies.record import StudyRow, StudySummary
from histopipe.experiments.studies.table import extent
from histopipe.reporting.comparison.figure import DRAWN_COLUMNS, finish_panel
from histopipe.reporting.comparison.table import COLUMNS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Paul Tol's bright scheme, which colour-blind readers can distinguish; further architectures reuse its colours
COLOURS = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#BBBBBB")
STEP = 0.18  # between the schemes of one architecture, in lines


def draw_schemes(content: StudySummary) -> Figure:
    """Draw a panel per metric, with a dot and its interval for every scheme of a recipe."""
    ranking = content["ranking"]
    schemes = list(ranking[0]["variants"])
    figure, panels = _panels(len(COLUMNS), 1.15 + 0.5 * len(ranking), sharey=True)
    for axes, (metric, title) in zip(panels.flat, COLUMNS.items(), strict=True):
        for number, scheme in enumerate(schemes):
            lines = [line + STEP * (number - (len(schemes) - 1) / 2) for line in range(len(ranking))]
            results = [row["variants"][scheme]["test"][metric] for row in ranking]
            _dots(axes, results, lines, COLOURS[number % len(COLOURS)], scheme)
        finish_panel(axes, ranking, -0.75)
        axes.set_title(title, fontsize=10.5, loc="left")
    figure.legend(
        *panels.flat[0].get_legend_handles_labels(), loc="outside lower left", ncols=len(schemes), frameon=False
    )
    _title(figure, content)
    return figure


def draw_curve(content: StudySummary) -> Figure:
    """Draw a panel per metric: its value by the number of training cases, with intervals, a line per recipe."""
    figure, panels = _panels(len(COLUMNS), 2.9)
    for axes, (metric, title) in zip(panels.flat, COLUMNS.items(), strict=True):
        for number, row in enumerate(content["ranking"]):
            _curve(axes, row, metric, COLOURS[number % len(COLOURS)])
        axes.set_title(title, fontsize=10.5, loc="left")
        axes.set_xlabel("training cases", fontsize=9)
        axes.grid(color="#EEEEEE", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    handles = panels.flat[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower left", ncols=min(6, len(content["ranking"])), frameon=False)
    _title(figure, content)
    return figure


def _panels(count: int, height: float, sharey: bool = False) -> tuple[Figure, Any]:
    lines = -(-count // DRAWN_COLUMNS)
    figure = new_figure(10, lines * height + 0.9)
    return figure, figure.subplots(lines, DRAWN_COLUMNS, sharey=sharey, squeeze=False)


def _dots(axes: Axes, results: list[Estimate], lines: list[float], colour: str, label: str) -> None:
    defined = [(line, result) for line, result in zip(lines, results, strict=True) if result["value"] is not None]
    points = [(line, *interval_of(result)) for line, result in defined]
    for line, _, low, high in points:
        axes.plot([low, high], [line, line], color=colour, linewidth=2.5, alpha=0.55)
    axes.plot([value for _, value, _, _ in points], [line for line, *_ in points], "o", color=colour, label=label)


def _curve(axes: Axes, row: StudyRow, metric: str, colour: str) -> None:
    results = sorted((int(size), variant["test"][metric]) for size, variant in row["variants"].items())
    points = [(size, *interval_of(result)) for size, result in results if result["value"] is not None]
    sizes, lows, highs = ([point[column] for point in points] for column in (0, 2, 3))
    axes.fill_between(sizes, lows, highs, color=colour, alpha=0.15, linewidth=0)
    axes.plot(sizes, [value for _, value, _, _ in points], "o-", color=colour, label=row["architecture"])


def _title(figure: Figure, content: StudySummary) -> None:
    about = f"{content['dataset']}, {extent(content)}; positive class {content['positive_class']}"
    figure.suptitle(escape_mathtext(f"{about}\n95 % intervals by case"), fontsize=11, x=0.01, ha="left")
