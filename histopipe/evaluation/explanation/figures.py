"""The figures of an explanation: the gallery, and the curves that check its maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histopipe.core.operating_point import OperatingPoint
from histopipe.data.store import Patches
from histopipe.evaluation.explanation.gallery import GROUPS, PER_ROW, WRONG
from histopipe.evaluation.explanation.record import MapsCheck
from histopipe.evaluation.explanation.references import DARKNESS, GREY, RANDOM_WEIGHTS
from histopipe.evaluation.figures import CURVE, REFERENCE, escape_mathtext, format_estimate, new_figure
from histopipe.evaluation.intervals import Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from histopipe.evaluation.explanation.maps import Maps

EVIDENCE = "PuOr_r"  # purple against, orange for: colour-blind readers distinguish them, and stains are red and blue
STRONGEST = 0.8  # opacity of the strongest evidence over the grey patch
LAYOUT = {"left": 0.02, "right": 0.98, "top": 0.94, "bottom": 0.09, "wspace": 0.08, "hspace": 0.42}
KEY = (0.3, 0.035, 0.4, 0.01)  # left, bottom, width and height of the colour bar, in shares of the figure
REFERENCE_LINES = {DARKNESS: "--", RANDOM_WEIGHTS: "-."}

Image = NDArray[np.float64]  # (height, width, 3), 0 to 1


def draw_gallery(chosen: pd.DataFrame, patches: Patches, maps: Maps, point: OperatingPoint, title: str) -> Figure:
    """Draw patches next to their maps, a row for each group and actual class.

    Args:
        chosen: the result of `choose_gallery`, with `x` and `y` if the data have coordinates.
        patches: the patches of these rows.
        maps: the maps of these rows, evidence for the positive class.
        point: the operating point, with the names of the classes.
        title: title of the figure.
    """
    classes = (point["negative_class"], point["positive_class"])
    figure = new_figure(13, 14)
    figure.set_layout_engine("none")  # a layout engine needs seconds for so many axes
    grid = figure.subplots(2 * len(GROUPS), PER_ROW, gridspec_kw=LAYOUT)
    for number, row in enumerate(grid):
        group, label = GROUPS[number // 2], number % 2
        places = np.flatnonzero((chosen["group"] == group) & (chosen["label"] == label))
        for axes, position in zip(row, places, strict=False):
            axes.imshow(side_by_side(patches[position], maps[position]), interpolation="nearest")
            axes.set_xlabel(escape_mathtext(_caption(chosen.iloc[position], classes, point["threshold"])), fontsize=8)
        for axes in row:
            axes.set(xticks=[], yticks=[], frame_on=False)
        row[0].set_title(escape_mathtext(_row_title(group, label, classes, len(places))), fontsize=10, loc="left")
    _key(figure, classes)
    figure.suptitle(escape_mathtext(title), fontsize=11, x=0.02, y=0.985, ha="left")
    return figure


def side_by_side(patch: NDArray[np.uint8], evidence: NDArray[np.float32]) -> Image:
    """Join a patch, a white gap, and the grey patch under its map: (height, 2 * width + gap, 3), 0 to 1."""
    gap = np.ones((patch.shape[0], max(1, patch.shape[1] // 16), 3))
    return np.concatenate([patch / 255.0, gap, overlay(patch, evidence)], axis=1)


def overlay(patch: NDArray[np.uint8], evidence: NDArray[np.float32]) -> Image:
    """Draw a grey patch under its map; colour increases with the evidence, up to the map's own maximum."""
    from matplotlib import colormaps

    strength = evidence / (np.abs(evidence).max() or 1.0)
    grey = np.repeat((patch / 255.0 @ np.array(GREY))[..., np.newaxis], 3, axis=-1)
    share = STRONGEST * np.abs(strength)[..., np.newaxis]
    coloured: Image = (1 - share) * grey + share * colormaps[EVIDENCE]((strength + 1) / 2)[..., :3]
    return coloured


def _row_title(group: str, label: int, classes: tuple[str, str], count: int) -> str:
    called = f" called {classes[1 - label]}" if group == WRONG else ""
    return f"{group}: {classes[label]}{called}{'' if count else ', none'}"


def _caption(patch: pd.Series, classes: tuple[str, str], threshold: float) -> str:
    position = ""
    if "x" in patch and not pd.isna(patch["x"]):
        position = f", x {patch['x']:.0f}, y {patch['y']:.0f}"
    probability = f"P({classes[1]}) {patch['probability']:.3f}, threshold {threshold:.3f}"
    return f"case {patch['case_id']}{position}\n{classes[patch['label']]}: {probability}"


def _key(figure: Figure, classes: tuple[str, str]) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    shades = ScalarMappable(Normalize(-1, 1), EVIDENCE)
    bar = figure.colorbar(shades, cax=figure.add_axes(KEY), orientation="horizontal")
    against, along = (escape_mathtext(f"speaks for {name}") for name in classes)
    bar.set_ticks([-1, 0, 1], labels=[against, "neither", along])
    bar.set_label("evidence, each map on its own scale", fontsize=8)


def draw_curves(check: MapsCheck, title: str) -> Figure:
    """Draw the mean deletion and insertion curves by the maps, by the same maps moved, and by references.

    Args:
        check: the result of `check_maps`.
        title: title of the figure.
    """
    figure = new_figure(9.6, 4.6)
    deletion, insertion = figure.subplots(1, 2, sharey=True)
    x = check["curves"]["shares"]
    panels = (
        (deletion, "deletion", "blanked", check["deletion"], check["curves"]["deletion"]),
        (insertion, "insertion", "shown", check["insertion"], check["curves"]["insertion"]),
    )
    for axes, name, what, areas, curves in panels:
        axes.plot(x, curves["chance"], color=REFERENCE, linestyle=":", label=_area("map moved", areas["chance"]))
        for other in check["references"]:
            line = REFERENCE_LINES.get(other, "--")
            axes.plot(x, curves[other], color=REFERENCE, linestyle=line, label=_area(other, areas[other]))
        axes.plot(x, curves["map"], color=CURVE, linewidth=2, label=_area("map", areas["map"]))
        axes.fill_between(x, curves["chance"], curves["map"], color=CURVE, alpha=0.15, linewidth=0)
        axes.set(xlim=(0, 1), ylim=(-0.01, 1.01), xlabel=f"share of the patch {what}, highest values of the map first")
        axes.set_title(f"{name}: gain on chance {format_estimate(areas['gain'])}", fontsize=10, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        corner = "lower left" if name == "deletion" else "lower right"
        axes.legend(loc=corner, framealpha=0.85, edgecolor="none", fontsize=9)
    deletion.set_ylabel("mean probability of the class called")
    figure.suptitle(escape_mathtext(title), fontsize=10.5, x=0.01, ha="left")
    return figure


def _area(name: str, area: Estimate) -> str:
    return f"{name}: area {format_estimate(area)}"
