"""A small picture of each case's tissue, for pages that draw predictions over it: from a slide, or from patches.

It shows the box around the case's patches and nothing else: pixels of the slide itself, never its label, its macro
image or its metadata.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from histopipe.data.store import Patches
from histopipe.evaluation import slide_figures
from histopipe.evaluation.slide_maps import lay_out_patches, paint_tissue
from histopipe.inference.predicted_slide import PredictedSlide
from histopipe.inference.table import SCHEMA
from histopipe.ingest.images import Patch, resize_patch

FOLDER = "tissue"
SIDES = ("x", "y", "width", "height")
LONGEST = 1000  # pixels of a picture's longer side
QUALITY = 85  # of JPEG
SHARPEST, COARSEST = 32, 4  # pixels kept per patch, across and down: the more patches, the fewer
MOST = 64 * 2**20  # bytes of all patches: 1.4 million at the coarsest


def picture_file(case: str) -> str:
    """Return the file name of a case's picture."""
    return f"{Path(slide_figures.file_name(case)).stem}.jpg"


def draw_slide_picture(slide: PredictedSlide, folder: Path) -> Path:
    """Draw the part of a slide that its tiles cover; return the file."""
    across, down = slide.overview.scale
    left, top = (float(slide.tiles[name].min()) for name in "xy")
    right, bottom = (
        float((slide.tiles[name] + slide.tiles[side]).max()) for name, side in (("x", "width"), ("y", "height"))
    )
    height, width = slide.overview.picture.shape[:2]
    box = left / across, top / down, min(right / across, width), min(bottom / down, height)
    sides = box[3] - box[1], box[2] - box[0]
    scale = max(1.0, max(sides) / LONGEST)
    size = max(1, round(sides[0] / scale)), max(1, round(sides[1] / scale))
    return _save(resize_patch(slide.overview.picture, size, box), slide.case_id, folder)


class PatchPictures:
    """Patches with a position, kept small until the pictures of their cases are drawn.

    Args:
        resized: whether patches were resized to the model's size, rather than padded.
    """

    def __init__(self, resized: bool) -> None:
        self._resized = resized
        self._side = SHARPEST
        self._pixels: list[Patches] = []
        self._places: list[pd.DataFrame] = []

    def add(self, rows: Sequence[tuple[Any, ...]], patches: Patches) -> None:
        """Add patches, unless there are too many already.

        Args:
            rows: their rows of the table of predictions, up to column `height`.
            patches: their pixels, uint8 (patches, height, width, 3).
        """
        if self._side < COARSEST:
            return
        table = pd.DataFrame(rows, columns=SCHEMA.names[:6]).dropna(subset=["x", "y"])
        places = table.drop(columns="file").astype({"case_id": "category", **dict.fromkeys(SIDES, np.int32)})
        if len(places):
            self._pixels.append(np.stack([self._small(patches[row], *rows[row][4:6]) for row in places.index]))
            self._places.append(places)
            self._make_room()

    def draw(self, folder: Path) -> list[Path]:
        """Draw a picture of each case; return the files. Nothing is drawn if there were too many patches."""
        if not self._places:
            return []
        places, pixels = pd.concat(self._places, ignore_index=True), np.concatenate(self._pixels)
        drawn = []
        for case, part in places.groupby("case_id", sort=False):
            canvas = lay_out_patches(part, LONGEST)
            if min(canvas.shape):  # patches that are absurdly far apart would be invisible
                drawn.append(_save(paint_tissue(canvas, pixels[part.index], None), str(case), folder))
        return drawn

    def _small(self, patch: Patch, width: int, height: int) -> Patch:
        return resize_patch(patch if self._resized else patch[:height, :width], (self._side, self._side))

    def _make_room(self) -> None:
        while sum(part.nbytes for part in self._pixels) > MOST:
            self._side //= 2
            self._pixels = [_halved(part) for part in self._pixels]
        if self._side < COARSEST:
            self._pixels, self._places = [], []


def _halved(patches: Patches) -> Patches:
    count, height, width, channels = patches.shape
    quarters = patches.reshape(count, height // 2, 2, width // 2, 2, channels)
    return np.rint(quarters.mean(axis=(2, 4), dtype=np.float32)).astype(np.uint8)


def _save(picture: Patch, case: str, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / picture_file(case)
    Image.fromarray(picture).save(path, "JPEG", quality=QUALITY)
    return path
