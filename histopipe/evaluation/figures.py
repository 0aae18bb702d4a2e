"""The figures of one evaluation, as PNG files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from histopipe.evaluation.intervals import Estimate
from histopipe.evaluation.metrics import Predictions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVE = "#4477AA"  # from Paul Tol's schemes, which colour-blind readers and grey prints distinguish
MARK = "#EE6677"
REFERENCE = "#888888"
GRID = "#EEEEEE"
DPI = 120
NAMED_CASES = 5
MAX_LEGEND_ROWS = 4  # of a legend in one column


@dataclass(frozen=True)
class Evaluation:
    """The results of an evaluation that its figures show.

    Attributes:
        dataset, architecture: names of the data set and of the recipe.
        classes: the negative class, then the positive one.
        predictions: predictions of the test split, at the threshold that was chosen on validation.
        metrics: value and interval of each metric; under `uncalibrated`, the calibration error before calibration.
        threshold: the probability from which a patch is called positive.
    """

    dataset: str
    architecture: str
    classes: tuple[str, str]
    predictions: Predictions
    metrics: Mapping[str, Estimate]
    threshold: float


def draw_figures(evaluation: Evaluation, tables: Mapping[str, pd.DataFrame], folder: Path) -> list[Path]:
    """Draw every figure into `folder`.

    Args:
        evaluation: the results to show.
        tables: the tables of the evaluation, by file name without its ending.
        folder: folder to create and write to.

    Returns:
        The files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawings: dict[str, Callable[[], Figure]] = {
        "roc": lambda: draw_roc(evaluation, tables["roc"]),
        "precision_recall": lambda: draw_precision_recall(evaluation, tables["precision_recall"]),
        "confusion": lambda: draw_confusion(evaluation),
        "calibration": lambda: draw_calibration(evaluation, tables["calibration"], tables["uncalibrated"]),
        "cases": lambda: draw_case_accuracy(evaluation, tables["cases"]),
        "subgroups": lambda: draw_subgroups(evaluation, tables["subgroups"]),
    }
    return [save_figure(draw(), folder / f"{name}.png") for name, draw in drawings.items()]


def new_figure(width: float, height: float) -> Figure:
    """Create a figure without pyplot, whose list of open figures would keep it in memory.

    Args:
        width, height: size in inches.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path, dpi: float = DPI) -> Path:
    """Write a PNG without the version of Matplotlib, so that equal figures are equal files."""
    figure.savefig(path, dpi=dpi, metadata={"Software": None})
    return path


def escape_mathtext(text: str) -> str:
    """Escape a text for Matplotlib, which would read what is between two dollar signs as a formula.

    Names of cases and classes come from archives and tables by anyone, so they may contain any character.
    """
    return text.replace("$", r"\$")


def draw_roc(evaluation: Evaluation, curve: pd.DataFrame) -> Figure:
    """Draw the ROC curve with the operating point."""
    figure = new_figure(5.4, 5.6)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=REFERENCE, linewidth=1, linestyle=":", label="chance")
    axes.plot(curve["fpr"], curve["tpr"], color=CURVE, linewidth=2, label=_named("AUC", evaluation, "roc_auc"))
    specificity, sensitivity = (evaluation.metrics[name]["value"] for name in ("specificity", "sensitivity"))
    if specificity is not None and sensitivity is not None:
        _mark_operating_point(axes, 1 - specificity, sensitivity, evaluation)
    axes.set_xlabel(escape_mathtext(f"1 - specificity ({evaluation.classes[0]} called {evaluation.classes[1]})"))
    axes.set_ylabel(escape_mathtext(f"sensitivity ({evaluation.classes[1]} detected)"))
    finish_unit_square(axes, "lower right")
    _title(axes, evaluation, "ROC curve")
    return figure


def draw_precision_recall(evaluation: Evaluation, curve: pd.DataFrame) -> Figure:
    """Draw the precision-recall curve with the operating point."""
    figure = new_figure(5.4, 5.6)
    axes = figure.add_subplot()
    prevalence = float(evaluation.predictions.labels.mean())
    axes.axhline(prevalence, color=REFERENCE, linewidth=1, linestyle=":", label=f"chance ({prevalence:.2f} positive)")
    label = _named("average precision", evaluation, "average_precision")
    axes.plot(curve["recall"], curve["precision"], color=CURVE, linewidth=2, drawstyle="steps-pre", label=label)
    precision, sensitivity = (evaluation.metrics[name]["value"] for name in ("precision", "sensitivity"))
    if precision is not None and sensitivity is not None:
        _mark_operating_point(axes, sensitivity, precision, evaluation)
    axes.set_xlabel(escape_mathtext(f"recall = sensitivity ({evaluation.classes[1]} detected)"))
    axes.set_ylabel(escape_mathtext(f"precision ({evaluation.classes[1]} among patches called so)"))
    finish_unit_square(axes, "lower left")
    _title(axes, evaluation, "Precision and recall")
    return figure


def draw_confusion(evaluation: Evaluation) -> Figure:
    """Draw the confusion matrix: number of patches, and their share of the actual class."""
    figure = new_figure(5.4, 5.2)
    axes = figure.add_subplot()
    counts = np.zeros((2, 2), np.int64)
    np.add.at(counts, (evaluation.predictions.labels, evaluation.predictions.decisions), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (actual, predicted), share in np.ndenumerate(shares):
        axes.text(
            predicted,
            actual,
            f"{counts[actual, predicted]:,}\n{share:.1%}",
            ha="center",
            va="center",
            fontsize=15,
            color="white" if share > 0.55 else "black",
        )
    classes = [escape_mathtext(name) for name in evaluation.classes]
    axes.set_xticks([0, 1], classes)
    axes.set_yticks([0, 1], classes, rotation=90, va="center")
    axes.tick_params(length=0)
    axes.set_xlabel(f"called (threshold {evaluation.threshold:.3f})\n" + _rates(evaluation))
    axes.set_ylabel("actual")
    _title(axes, evaluation, "Confusion matrix")
    return figure


def draw_calibration(evaluation: Evaluation, bins: pd.DataFrame, before: pd.DataFrame | None) -> Figure:
    """Draw the reliability diagram before calibration (if given) and after, and the distribution of probabilities."""
    figure = new_figure(5.4, 6.9)
    axes, below = figure.subplots(2, 1, height_ratios=[4, 1], sharex=True)
    axes.plot([0, 1], [0, 1], color=REFERENCE, linewidth=1, linestyle=":", label="perfectly calibrated")
    if before is not None:
        label = _named("before: error", evaluation, "uncalibrated")
        axes.plot(before["predicted"], before["observed"], color=REFERENCE, marker="o", markersize=3, label=label)
    label = _named("calibrated: error", evaluation, "calibration_error")
    axes.plot(
        bins["predicted"],
        bins["observed"],
        color=CURVE,
        linewidth=2,
        marker="o",
        markersize=5,
        label=label,
    )
    axes.set_ylabel(escape_mathtext(f"observed share of {evaluation.classes[1]}"))
    finish_unit_square(axes, "below")
    axes.set_aspect("auto")  # as wide as the panel below, whose axis it shares
    below.bar(bins["low"], bins["patches"], bins["high"] - bins["low"], align="edge", color=CURVE, edgecolor="white")
    below.axvline(evaluation.threshold, color=MARK, linewidth=1.5, label=f"threshold {evaluation.threshold:.3f}")
    below.set_ylabel("patches")
    below.set_xlabel(escape_mathtext(f"calibrated probability of {evaluation.classes[1]}"))
    below.spines[["top", "right"]].set_visible(False)
    below.legend(frameon=False, fontsize=9)
    _title(axes, evaluation, "Calibration")
    return figure


def draw_case_accuracy(evaluation: Evaluation, cases: pd.DataFrame) -> Figure:
    """Draw the accuracy of every case, with names of the worst cases; larger dots are cases of more patches."""
    figure = new_figure(7.2, 4.6)
    axes = figure.add_subplot()
    sizes = 12 + 160 * cases["patches"] / cases["patches"].max()
    axes.scatter(range(len(cases)), cases["accuracy"], s=sizes, color=CURVE, alpha=0.6, edgecolor="white")
    accuracy = evaluation.metrics["accuracy"]["value"] or 0.0
    axes.axhline(accuracy, color=REFERENCE, linewidth=1, linestyle=":", label=f"all patches {accuracy:.3f}")
    for x, row in enumerate(cases.head(NAMED_CASES).itertuples()):
        name = escape_mathtext(f" {row.case_id}")  # a long name is cut off and doesn't shrink the axes
        axes.annotate(name, (x, row.accuracy), fontsize=8.5, color=MARK, va="center", in_layout=False)
    axes.set_xticks([])
    axes.set_xlabel("cases, worst first; larger dots have more patches")
    axes.set_ylabel(f"accuracy (threshold {evaluation.threshold:.3f})")
    axes.set_ylim(-0.02, 1.03)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False, fontsize=9)
    _title(axes, evaluation, "Cases")
    return figure


def draw_subgroups(evaluation: Evaluation, subgroups: pd.DataFrame) -> Figure:
    """Draw the ROC AUC of every subgroup with its interval, and a line at that of the whole test split."""
    figure = new_figure(7.2, 1.9 + 0.34 * max(1, len(subgroups)))
    axes = figure.add_subplot()
    whole = evaluation.metrics["roc_auc"]["value"]
    if whole is not None:
        axes.axvline(whole, color=REFERENCE, linewidth=1, linestyle=":", label=f"all patches {whole:.3f}")
        axes.legend(loc="lower left", frameon=False, fontsize=9)
    defined = subgroups.dropna(subset="roc_auc")
    axes.hlines(defined.index, defined["roc_auc_low"], defined["roc_auc_high"], color=CURVE, linewidth=2.5, alpha=0.55)
    axes.plot(defined["roc_auc"], defined.index, "o", color=CURVE, markersize=7)
    labels = [
        escape_mathtext(f"{row.group}: {row.level}\n{row.cases:,} cases, {row.patches:,} patches")
        for row in subgroups.itertuples()
    ]
    axes.set_yticks(range(len(subgroups)), labels, fontsize=8.5)
    axes.set_ylim(max(1, len(subgroups)) - 0.5, -0.5)
    axes.set_xlabel("ROC AUC" if len(subgroups) else "no subgroups in the data")
    axes.spines[["top", "right", "left"]].set_visible(False)
    _title(axes, evaluation, "Subgroups")
    return figure


def format_estimate(measured: Estimate) -> str:
    """Format a value with its interval, such as `0.912 [0.880, 0.941]`.

    Example:
        >>> format_estimate({"value": 0.912, "low": 0.88, "high": 0.941})
        '0.912 [0.880, 0.941]'
    """
    if measured["value"] is None:
        return "undefined"
    return f"{measured['value']:.3f} [{measured['low']:.3f}, {measured['high']:.3f}]"


def _named(name: str, evaluation: Evaluation, metric: str) -> str:
    return f"{name} {format_estimate(evaluation.metrics[metric])}"


def _rates(evaluation: Evaluation) -> str:
    return "\n".join(_named(name, evaluation, name) for name in ("sensitivity", "specificity"))


def _mark_operating_point(axes: Axes, x: float, y: float, evaluation: Evaluation) -> None:
    label = f"threshold {evaluation.threshold:.3f}, from validation"
    axes.plot([x], [y], marker="o", markersize=9, color=MARK, markeredgecolor="white", linestyle="none", label=label)


def finish_unit_square(axes: Axes, legend: Literal["lower right", "lower left", "below"]) -> None:
    """Show the whole unit square, with a light grid behind.

    Args:
        axes: the axes of the square.
        legend: the corner that the curves leave free, or `below` the figure's axes if they may cross every corner.
    """
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    if legend == "below":
        handles, labels = axes.get_legend_handles_labels()
        columns = 1 if len(labels) <= MAX_LEGEND_ROWS else 2
        axes.figure.legend(handles, labels, loc="outside lower left", ncols=columns, frameon=False, fontsize=9)
    else:
        axes.legend(loc=legend, frameon=True, framealpha=0.9, edgecolor="none", fontsize=9)


def _title(axes: Axes, evaluation: Evaluation, what: str) -> None:
    cases, patches = evaluation.predictions.case_count, len(evaluation.predictions.labels)
    title = (
        f"{what}: {evaluation.architecture} on {evaluation.dataset}\n"
        f"test split, {cases:,} cases, {patches:,} patches; 95 % intervals by case"
    )
    axes.set_title(escape_mathtext(title), fontsize=10.5, loc="left")
