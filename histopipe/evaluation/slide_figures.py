"""Figures of whole slides: tissue, truth, probability and error side by side."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from histopipe.core.files import read_case_table
from histopipe.core.operating_point import OperatingPoint
from histopipe.core.params import EvaluateParams
from histopipe.core.tables import write_csv
from histopipe.data.store import PatchStore
from histopipe.evaluation.figures import DPI, escape_mathtext, new_figure, save_figure
from histopipe.evaluation.slide_maps import PLACES, Canvas, Image, lay_out_patches, paint, paint_tissue

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import ListedColormap

SLIDES = "slides"  # name of the folder of pictures, and with `.csv` of the table that lists them
COLUMNS = ("case_id", "patches", "complete", "file")
PANEL_WIDTH, TALLEST, AROUND = 3.1, 9.0, 1.15  # inches: width of a panel, height of the figure, its title and legends
LONGEST_NAME, DIGEST = 180, 16  # characters of a picture's name, and of its digest; file systems allow 255 bytes
OUTCOMES = ("negative, called so", "positive, called so", "false alarm", "missed")
OUTCOME_COLOURS = ("#DDDDDD", "#4477AA", "#CCBB44", "#EE6677")  # Paul Tol's, which colour-blind readers distinguish
TRUTH_COLOURS = ("#DDDDDD", "#4477AA")


def draw_slides(
    table: pd.DataFrame, store: PatchStore, point: OperatingPoint, params: EvaluateParams, folder: Path
) -> pd.DataFrame:
    """Draw every slide, or those with the most patches, into `figures/slides/`, and list them in `slides.csv`.

    Args:
        table: predictions of the test split; `row` is the position of each patch in the store.
        store: the store with the patches and their coordinates.
        point: the operating point: names of the classes, and whether patches were resized or padded when stored.
        params: number and size of slides.
        folder: folder of the evaluation.

    Returns:
        The content of `slides.csv`: `COLUMNS`, a row per picture, whole slides before samples, many patches before few;
        no rows if patches have no coordinates.
    """
    chosen = _choose_cases(table, store.index, params)
    pictures = folder / "figures" / SLIDES
    if chosen:
        pictures.mkdir(parents=True, exist_ok=True)
    for case, part, canvas in chosen:
        patches = store.gather(part["row"].to_numpy())
        tissue = paint_tissue(canvas, patches, part[["height", "width"]] if not point["resized"] else None)
        figure = draw_slide(case, part, tissue, canvas, (point["negative_class"], point["positive_class"]))
        save_figure(figure, pictures / file_name(case), _resolution(canvas))
    rows = [(case, len(part), canvas.complete, file_name(case)) for case, part, canvas in chosen]
    drawn = pd.DataFrame(rows, columns=list(COLUMNS))
    write_csv(drawn, folder / f"{SLIDES}.csv")
    return drawn


def drawn_slides(folder: Path) -> list[tuple[str, Path]]:
    """List case and picture of each slide that an evaluation drew, in the order of `slides.csv`; none without it."""
    path = folder / f"{SLIDES}.csv"
    return slide_pictures(read_case_table(path), folder) if path.is_file() else []


def slide_pictures(slides: pd.DataFrame, folder: Path) -> list[tuple[str, Path]]:
    """List case and picture of each slide in a table with `case_id` and `file`."""
    pictures = folder / "figures" / SLIDES
    return [(case, pictures / file) for case, file in zip(slides["case_id"], slides["file"], strict=True)]


def _resolution(canvas: Canvas) -> float:
    """Return the dots per inch at which the figure of a whole slide shows every pixel of its canvas."""
    height, width = canvas.shape
    inches = min(PANEL_WIDTH, (TALLEST - AROUND) * width / height)
    return max(DPI, width / inches) if canvas.complete else DPI


def _choose_cases(
    table: pd.DataFrame, index: pd.DataFrame, params: EvaluateParams
) -> list[tuple[str, pd.DataFrame, Canvas]]:
    """Choose the cases to draw, whole slides first, then those with the most patches."""
    if not set(PLACES) <= set(index.columns):
        return []
    placed = table.join(index[list(PLACES)], on="row").dropna(subset=list(PLACES))
    parts = placed.groupby("case_id", sort=True)
    slides = [(str(case), part, lay_out_patches(part, params.slide_side)) for case, part in parts]
    slides.sort(key=lambda slide: (not slide[2].complete, -len(slide[1])))
    return slides if params.slides == "all" else slides[: params.slides]


def file_name(case: str) -> str:
    """Return the file name of a case's picture: dots and separators are encoded, and a long name ends in a digest."""
    name = quote(case, safe="").replace(".", "%2E")
    if len(name) > LONGEST_NAME:
        name = f"{name[: LONGEST_NAME - DIGEST - 1]}-{hashlib.sha256(case.encode()).hexdigest()[:DIGEST]}"
    return f"{name}.png"


def draw_slide(case: str, part: pd.DataFrame, tissue_image: Image, canvas: Canvas, classes: tuple[str, str]) -> Any:
    """Draw one slide: its tissue, truth, probability and error side by side."""
    from matplotlib.colors import ListedColormap

    height, width = canvas.shape
    margin = 0 if canvas.complete else 0.02 * max(height, width)  # room for dots
    figure = new_figure(13, min(TALLEST, PANEL_WIDTH * height / width + AROUND))
    tissue, truth, probability, error = figure.subplots(1, 4, sharex=True, sharey=True)
    tissue.imshow(tissue_image, interpolation="antialiased", extent=canvas.extent)
    label, decision = part["label"].to_numpy(), part["decision"].to_numpy()
    draw_values(truth, canvas, label, ListedColormap(TRUTH_COLOURS), 2)
    shades = draw_values(probability, canvas, part["probability"].to_numpy(), "viridis", 1)
    draw_values(error, canvas, _outcome(label, decision), ListedColormap(OUTCOME_COLOURS), 4)
    figure.colorbar(shades, cax=probability.inset_axes((0, -0.09, 1, 0.05)), orientation="horizontal")
    _legend(truth, classes, TRUTH_COLOURS)
    _legend(error, OUTCOMES, OUTCOME_COLOURS)
    _scale_bar(tissue, canvas)
    for axes, title in zip((tissue, truth, probability, error), _titles(classes), strict=True):
        axes.set_title(escape_mathtext(title), fontsize=10, loc="left")
        axes.set(xticks=[], yticks=[], xlim=(-margin, width + margin), ylim=(height + margin, -margin))
    kind = "" if canvas.complete else ", a sample of the slide"
    figure.suptitle(escape_mathtext(f"case {case}: {len(part):,} patches{kind}"), fontsize=11, x=0.01, ha="left")
    return figure


def _titles(classes: tuple[str, str]) -> tuple[str, str, str, str]:
    return "tissue", "truth", f"probability of {classes[1]}", "error at the threshold"


def _outcome(label: Any, decision: Any) -> Any:
    """Return each patch's index in `OUTCOMES`: 0 and 1 if called right, 2 for false alarms, 3 for misses."""
    return np.where(label == decision, label, np.where(decision == 1, 2, 3))


def draw_values(axes: Axes, canvas: Canvas, values: Any, colours: str | ListedColormap, levels: int) -> Any:
    """Draw one value per patch: as areas for a whole slide, as dots for a sample.

    Args:
        axes: where to draw.
        canvas: the slide's canvas.
        values: one value per patch.
        colours: colour map.
        levels: number of colours; 1 means a scale from 0 to 1.
    """
    low, high = (0.0, 1.0) if levels == 1 else (-0.5, levels - 0.5)
    if canvas.complete:
        options: dict[str, Any] = {"vmin": low, "vmax": high, "interpolation": "nearest", "extent": canvas.extent}
        return axes.imshow(paint(canvas, values), cmap=colours, **options)
    axes.set_aspect("equal")
    x, y = (canvas.left + canvas.right) / 2, (canvas.top + canvas.bottom) / 2
    return axes.scatter(x, y, c=values, cmap=colours, vmin=low, vmax=high, s=22, edgecolor="#666666", linewidth=0.3)


def _legend(axes: Axes, names: tuple[str, ...], colours: tuple[str, ...]) -> None:
    from matplotlib.patches import Patch

    keys = [Patch(facecolor=colour, label=escape_mathtext(name)) for name, colour in zip(names, colours, strict=True)]
    options = {"ncols": 2, "frameon": False, "fontsize": 8, "handlelength": 1}
    axes.legend(handles=keys, loc="upper center", bbox_to_anchor=(0.5, -0.01), **options)


def _scale_bar(axes: Axes, canvas: Canvas) -> None:
    """Draw a bar of a round number of slide pixels below the tissue; their size in micrometres is unknown."""
    width = canvas.shape[1]
    target = width * canvas.scale / 3
    unit = 10 ** np.floor(np.log10(target))
    length = unit * max(step for step in (1, 2, 5) if step * unit <= target)
    below = axes.get_xaxis_transform()  # across in pixels of the map, up and down in shares of the panel
    axes.plot([0, length / canvas.scale], [-0.03] * 2, color="black", linewidth=3, transform=below, clip_on=False)
    axes.annotate(f"{length:,.0f} px of the slide", (0, -0.05), xycoords=below, va="top", fontsize=8)
