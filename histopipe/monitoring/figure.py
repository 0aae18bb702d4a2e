"""The figure of reference and new cases: distributions above, every case as a point below."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histopipe.evaluation.drift.features import DESCRIBED
from histopipe.evaluation.drift.profiles import QUANTILES, Numbers
from histopipe.evaluation.figures import CURVE, MARK, REFERENCE, escape_mathtext, new_figure
from histopipe.monitoring.comparison import Comparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BINS = 40
JITTER = 0.28


def draw_drift(reference: pd.DataFrame, new: pd.DataFrame, comparison: Comparison, title: str) -> Figure:
    """Draw each feature in its own column, in red if it has drifted.

    Args:
        reference, new: profiles of the reference cases and of the new cases.
        comparison: the comparison of the two.
        title: title of the figure.
    """
    rows = comparison.features.to_dict("records")
    figure = new_figure(3.0 * len(rows), 5.0)
    above, below = figure.subplots(2, len(rows), height_ratios=(3, 2))
    for row, densities, points in zip(rows, above, below, strict=True):
        old, fresh = (
            part.loc[part["feature"] == row["feature"], QUANTILES].to_numpy(float) for part in (reference, new)
        )
        colour = MARK if row["drifted"] else CURVE
        _draw_densities(densities, old, fresh, colour)
        _draw_cases(points, old, fresh, colour)
        points.sharex(densities)
        points.set_xlabel(escape_mathtext(DESCRIBED[row["feature"]]), fontsize=8)
        result = f"{row['distance']:.2f} SD, p = {row['chance']:.2g}" + (": drift" if row["drifted"] else "")
        densities.set_title(
            f"{row['feature']}\n{result}", fontsize=10, loc="left", color=MARK if row["drifted"] else "black"
        )
    above[0].set_ylim(top=1.25 * above[0].get_ylim()[1])  # room for the legend
    above[0].legend(frameon=False, fontsize=8, loc="upper left")
    figure.suptitle(escape_mathtext(title), fontsize=11, x=0.01, ha="left")
    return figure


def _draw_densities(axes: Axes, old: Numbers, fresh: Numbers, colour: str) -> None:
    """Draw the densities of patches, where every case has the same weight."""
    ends = np.quantile(np.concatenate([old.ravel(), fresh.ravel()]), [0, 1])
    edges = np.linspace(ends[0], ends[1] if ends[1] > ends[0] else ends[0] + 1, BINS + 1)
    axes.hist(old.ravel(), list(edges), density=True, color=REFERENCE, alpha=0.35, label=f"reference, {len(old)} cases")
    axes.hist(
        fresh.ravel(),
        list(edges),
        density=True,
        histtype="step",
        color=colour,
        linewidth=1.6,
        label=f"new, {len(fresh)} cases",
    )
    axes.set_yticks([])
    axes.tick_params(labelbottom=False)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _draw_cases(axes: Axes, old: Numbers, fresh: Numbers, colour: str) -> None:
    """Draw the median of each case."""
    random = np.random.default_rng(0)
    for line, part, shade, size in ((1, old, REFERENCE, 8), (0, fresh, colour, 14)):
        heights = line + random.uniform(-JITTER, JITTER, len(part))
        axes.scatter(np.median(part, axis=1), heights, s=size, color=shade, alpha=0.7, linewidths=0)
    axes.set_yticks([0, 1], ["new", "reference"], fontsize=8)
    axes.set_ylim(-0.5, 1.5)
    axes.spines[["top", "right"]].set_visible(False)
