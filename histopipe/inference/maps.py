"""Maps of probabilities and decisions of cases, drawn from their patches or tiles."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histopipe.core.operating_point import OperatingPoint
from histopipe.evaluation.figures import DPI, escape_mathtext, new_figure, save_figure
from histopipe.evaluation.slide_figures import TRUTH_COLOURS, draw_values, file_name
from histopipe.evaluation.slide_maps import CANVAS, PLACES, Canvas, lay_out_patches
from histopipe.inference.predicted_slide import PredictedSlide

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FEWEST = 2  # patches of a map
BELOW = (0, 0.04, 1, 0.96)  # the part of a figure that isn't needed for the labels of its colour bar
OVER_TISSUE = 0.55  # opacity of what is drawn over a slide's picture


def draw_maps(
    cases: pd.DataFrame, table: Path, point: OperatingPoint, folder: Path, slides: Collection[str] = ()
) -> list[Path]:
    """Draw a map of each case with patches of known position.

    Args:
        cases: one row per case, with `case_id` and `placed`, the number of its patches with a position.
        table: the Parquet file of all patches; it is read case by case, so that memory doesn't grow with it.
        point: the operating point, with the names of the classes.
        folder: the folder to write to.
        slides: cases that already have a map.

    Returns:
        The files that were written, PNG.
    """
    drawn = []
    for case in cases.loc[(cases["placed"] >= FEWEST) & ~cases["case_id"].isin(list(slides)), "case_id"]:
        part = pd.read_parquet(table, filters=[("case_id", "==", case)]).dropna(subset=["x", "y"])
        folder.mkdir(parents=True, exist_ok=True)
        drawn.append(folder / file_name(case))
        draw_map(case, part, point, drawn[-1])
    return drawn


def draw_slide_map(slide: PredictedSlide, folder: Path) -> Path:
    """Draw a slide in three panels: tissue, probability over tissue, decision over tissue; return the file, PNG."""
    from matplotlib.colors import ListedColormap

    canvas = _canvas_of(slide)
    width, height = (side / canvas.scale for side in slide.grid.size)
    figure = new_figure(11, min(9.0, 3.4 * height / width + 1.2))
    figure.set_layout_engine("constrained", rect=BELOW)
    panels = figure.subplots(1, 3, sharex=True, sharey=True)
    for axes in panels:
        axes.imshow(slide.overview.picture, interpolation="antialiased", extent=(0, width, height, 0))
    shades = draw_values(panels[1], canvas, slide.tiles["probability"].to_numpy(), "viridis", 1)
    positive = np.where(slide.tiles["decision"] == 1, 1.0, np.nan)
    called = draw_values(panels[2], canvas, positive, ListedColormap(TRUTH_COLOURS), 2)
    for drawn in (shades, called):
        drawn.set_alpha(OVER_TISSUE)
    titles = ("tissue", f"probability of {slide.classes[1]}", f"at or above {slide.point['threshold']:.3f}")
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(escape_mathtext(title), fontsize=10, loc="left")
        axes.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))
    _length_bar(panels[0], width, canvas.scale * slide.pixel.x)
    figure.colorbar(shades, cax=panels[1].inset_axes((0, -0.07, 1, 0.035)), orientation="horizontal")
    title = f"{slide.case_id}: {len(slide.tiles):,} tiles, {int(slide.tiles['decision'].sum()):,} positive"
    figure.suptitle(escape_mathtext(title), fontsize=11, x=0.01, ha="left")
    folder.mkdir(parents=True, exist_ok=True)
    return save_figure(figure, folder / file_name(slide.case_id), DPI)


def _canvas_of(slide: PredictedSlide) -> Canvas:
    """Compute the positions of the tiles on a picture of the whole slide."""
    scale = max(1.0, max(slide.grid.size) / CANVAS)
    x, y, width, height = (slide.tiles[name].to_numpy(np.float64) for name in PLACES)
    edges = [np.floor(edge / scale + 0.5).astype(np.int64) for edge in (x, y, x + width, y + height)]
    return Canvas(edges[0], edges[1], edges[2], edges[3], scale, complete=True)


def _length_bar(axes: Axes, width: float, pixel: float) -> None:
    """Draw a scale bar of a round length below a picture of `width` pixels, each `pixel` micrometres wide."""
    target = width * pixel / 3
    unit = 10 ** np.floor(np.log10(target))
    length = unit * max(step for step in (1, 2, 5) if step * unit <= target)
    below = axes.get_xaxis_transform()  # across in pixels of the picture, up and down in shares of the panel
    axes.plot([0, length / pixel], [-0.03] * 2, color="black", linewidth=3, transform=below, clip_on=False)
    label = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"
    axes.annotate(label, (0, -0.05), xycoords=below, va="top", fontsize=8)


def draw_map(case: str, part: pd.DataFrame, point: OperatingPoint, path: Path) -> None:
    """Draw probability and decision of a case side by side."""
    from matplotlib.colors import ListedColormap

    canvas = lay_out_patches(part)
    height, width = canvas.shape
    figure = new_figure(8, min(9.0, 3.8 * height / width + 1.2))
    probability, decision = figure.subplots(1, 2, sharex=True, sharey=True)
    shades = draw_values(probability, canvas, part["probability"].to_numpy(), "viridis", 1)
    draw_values(decision, canvas, part["decision"].to_numpy(), ListedColormap(TRUTH_COLOURS), 2)
    for axes in (probability, decision):
        axes.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))
    probability.set_title(escape_mathtext(f"probability of {point['positive_class']}"), fontsize=10, loc="left")
    decision.set_title(escape_mathtext(f"at or above {point['threshold']:.3f}"), fontsize=10, loc="left")
    figure.colorbar(shades, cax=probability.inset_axes((0, -0.09, 1, 0.05)), orientation="horizontal")
    kind = "" if canvas.complete else ", a sample of the slide"
    figure.suptitle(escape_mathtext(f"case {case}: {len(part):,} patches{kind}"), fontsize=11, x=0.01, ha="left")
    save_figure(figure, path, DPI)
