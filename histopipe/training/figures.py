"""Draw the history of a training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_history(history: pd.DataFrame, title: str, path: Path) -> None:
    """Draw loss and validation metrics over the epochs, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    losses, metrics = figure.subplots(1, 2)
    draw_losses(losses, history)
    draw_metrics(metrics, history)
    losses.set_title("loss (training: weighted by class)")
    metrics.set_title("validation metrics")
    figure.suptitle(title)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def draw_losses(axes: Axes, history: pd.DataFrame) -> None:
    """Draw the losses on training and validation by epoch."""
    _draw_columns(axes, history, {"train/loss": "training", "validation/loss": "validation"})


def draw_metrics(axes: Axes, history: pd.DataFrame) -> None:
    """Draw validation's ROC AUC and accuracy by epoch."""
    _draw_columns(axes, history, {"validation/roc_auc": "ROC AUC", "validation/accuracy": "accuracy"})


def _draw_columns(axes: Axes, history: pd.DataFrame, columns: Mapping[str, str]) -> None:
    for colour, (column, label) in zip(("#4477AA", "#EE6677"), columns.items(), strict=True):
        axes.plot(history["epoch"], history[column], marker="o", markersize=3, color=colour, label=label)
    axes.set_xlabel("candidate" if "c" in history else "epoch")
    locator: Any = axes.xaxis.get_major_locator()
    locator.set_params(integer=True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
