"""Summary of a split: a table and a plot."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from histopipe.core.files import replaced_file
from histopipe.data.splitting.membership import SPLITS


def summarise(membership: pd.DataFrame, index: pd.DataFrame) -> pd.DataFrame:
    """Count cases, patches and positive patches, and compute the positive share, one row per split."""
    unit = "file" if "file" in membership else "case_id"
    splits = index[unit].map(membership.set_index(unit)["split"])
    grouped = index.groupby(splits.rename("split"))
    table = pd.DataFrame(
        {
            "cases": grouped["case_id"].nunique(),
            "patches": grouped.size(),
            "positive": grouped["label"].sum().astype(int),
        }
    ).reindex(list(SPLITS), fill_value=0)
    table["positive_share"] = (table["positive"] / table["patches"].clip(lower=1)).round(4)
    return table


def plot_summary(summary: pd.DataFrame, dataset: str, path: Path) -> None:
    """Draw each split's share of cases and patches, and its share of positives, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = (("cases", "cases"), ("patches", "patches"), ("positive_share", "positive share"))
    for axes, (column, title) in zip(figure.subplots(1, 3), panels, strict=True):
        bars = axes.bar(summary.index, summary[column], color=["#4477AA", "#CCBB44", "#EE6677"])
        axes.bar_label(bars, fmt="{:,.0f}" if column != "positive_share" else "{:.1%}", padding=2)
        axes.set_title(title)
        axes.margins(y=0.15)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{dataset}: how cases are divided")
    with replaced_file(path) as new:
        figure.savefig(new, format="png", dpi=110, metadata={"Software": None})
