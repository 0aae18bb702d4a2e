"""The history of a training as a picture."""

from __future__ import annotations

from pathlib import Path

import pandas as pd


def plot_history(history: pd.DataFrame, title: str, path: Path) -> None:
    """Draw loss and validation scores over the epochs, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    losses, scores = figure.subplots(1, 2)
    for axes, columns in (
        (losses, {"train/loss": "training", "validation/loss": "validation"}),
        (scores, {"validation/roc_auc": "ROC AUC", "validation/accuracy": "accuracy"}),
    ):
        for colour, (column, label) in zip(("#4477AA", "#EE6677"), columns.items(), strict=True):
            axes.plot(history["epoch"], history[column], marker="o", markersize=3, color=colour, label=label)
        axes.set_xlabel("candidate" if "c" in history else "epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    losses.set_title("loss (training: weighted by class)")
    scores.set_title("validation scores")
    figure.suptitle(title)
    figure.savefig(path, dpi=110, metadata={"Software": None})
