"""Draw a search: its trials in order, and the importance of each value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from histopipe.evaluation.figures import CURVE, MARK, REFERENCE, escape_mathtext, new_figure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_search(trials: pd.DataFrame, importances: Mapping[str, float], title: str) -> Figure:
    """Draw the validation AUC of every trial with the best so far, and next to it the importances, if any.

    Args:
        trials: columns `trial`, `state` (`complete`, `pruned`, `failed`) and `validation_roc_auc`.
        importances: share of the variance over complete trials that each value explains.
        title: title of the figure.
    """
    figure = new_figure(9 if importances else 5.5, 3.8)
    if importances:
        history, bars = figure.subplots(1, 2)
        _draw_importances(bars, importances)
    else:
        history = figure.subplots()
    _draw_trials(history, trials)
    figure.suptitle(escape_mathtext(title), fontsize=11, x=0.01, ha="left")
    return figure


def _draw_trials(axes: Axes, trials: pd.DataFrame) -> None:
    from matplotlib.ticker import MaxNLocator

    kinds = {"complete": ("o", CURVE, "trained to its end"), "pruned": ("x", REFERENCE, "pruned, at its last epoch")}
    for state, (marker, colour, label) in kinds.items():
        shown = trials[trials["state"] == state]
        if len(shown):
            axes.plot(shown["trial"], shown["validation_roc_auc"], marker, color=colour, label=label)
    complete = trials[trials["state"] == "complete"]
    axes.step(complete["trial"], complete["validation_roc_auc"].cummax(), where="post", color=MARK, label="best so far")
    axes.set_xlabel("trial (0: the recipe as it was)" if 0 in set(complete["trial"]) else "trial")
    axes.set_title("ROC AUC on validation", fontsize=10.5, loc="left")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8.5)


def _draw_importances(axes: Axes, importances: Mapping[str, float]) -> None:
    ordered = sorted(importances.items(), key=lambda item: item[1])
    axes.barh([escape_mathtext(name) for name, _ in ordered], [share for _, share in ordered], color=CURVE)
    axes.set_xlim(0, 1)
    axes.set_title("share of the variance explained (fANOVA)", fontsize=10.5, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
