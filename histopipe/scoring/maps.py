"""A slide's probabilities and decisions, put together again from its patches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from histopipe.evaluation.figures import DPI, new_figure, plain, save_figure
from histopipe.evaluation.slide_figures import TRUTH_COLOURS, draw_values, file_name
from histopipe.evaluation.slide_maps import canvas_of

FEWEST = 2  # patches of a map


def draw_maps(cases: pd.DataFrame, table: Path, point: dict[str, Any], folder: Path) -> list[Path]:
    """Draw every case whose patches tell their places; returns the files, PNG.

    Args:
        cases: one row per case, with `case_id` and `placed`, how many of its patches have places.
        table: the Parquet file of all patches; read case by case, so that memory doesn't grow with their number.
        point: the operating point, for the names of the classes.
        folder: where to draw.
    """
    drawn = []
    for case in cases.loc[cases["placed"] >= FEWEST, "case_id"]:
        part = pd.read_parquet(table, filters=[("case_id", "==", case)]).dropna(subset=["x", "y"])
        folder.mkdir(parents=True, exist_ok=True)
        drawn.append(folder / file_name(case))
        draw_map(case, part, point, drawn[-1])
    return drawn


def draw_map(case: str, part: pd.DataFrame, point: dict[str, Any], path: Path) -> None:
    """One case: probability and decision side by side."""
    from matplotlib.colors import ListedColormap

    canvas = canvas_of(part)
    height, width = canvas.shape
    figure = new_figure(8, min(9.0, 3.8 * height / width + 1.2))
    probability, decision = figure.subplots(1, 2, sharex=True, sharey=True)
    shades = draw_values(probability, canvas, part["probability"].to_numpy(), "viridis", 1)
    draw_values(decision, canvas, part["decision"].to_numpy(), ListedColormap(TRUTH_COLOURS), 2)
    for axes in (probability, decision):
        axes.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))
    probability.set_title(plain(f"probability of {point['positive_class']}"), fontsize=10, loc="left")
    decision.set_title(plain(f"at or above {point['threshold']:.3f}"), fontsize=10, loc="left")
    figure.colorbar(shades, cax=probability.inset_axes((0, -0.09, 1, 0.05)), orientation="horizontal")
    kind = "" if canvas.complete else ", a sample of the slide"
    figure.suptitle(plain(f"case {case}: {len(part):,} patches{kind}"), fontsize=11, x=0.01, ha="left")
    save_figure(figure, path, DPI)
