"""A slide put together again from its patches' coordinates.

A map is drawn on a canvas whose pixels each stand for `scale` x `scale` of the slide. A patch's corners are scaled and
then rounded, so patches that touch on the slide share an edge on the canvas: no seams and no overlaps at any offset.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from histopipe.data.store import Patches

CANVAS = 1200  # pixels of the longer side of a sample's map, whose patches are drawn as dots
COMPLETE = 0.2  # share of its bounding box that a slide's patches cover at least; a sample of it covers less
FEWEST = 10  # patches of a whole slide: one alone covers its bounding box
PLACES = ("x", "y", "width", "height")

Image = NDArray[np.uint8]  # (height, width, 3)
Field = NDArray[np.float64]  # (height, width); NaN where there is no patch


@dataclass(frozen=True)
class Canvas:
    """Where each patch of one slide lies on its map.

    Attributes:
        left, top, right, bottom: of each patch, in pixels of the map; right and bottom just outside.
        scale: slide pixels to a pixel of the map, on either side.
        complete: whether the patches cover the slide, rather than being a few of many.
    """

    left: NDArray[np.int64]
    top: NDArray[np.int64]
    right: NDArray[np.int64]
    bottom: NDArray[np.int64]
    scale: float
    complete: bool

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the map."""
        return int(self.bottom.max()), int(self.right.max())

    @property
    def extent(self) -> tuple[int, int, int, int]:
        """Left, right, bottom and top of the map: pixels end, rather than have their middle, at whole numbers."""
        return 0, self.shape[1], self.shape[0], 0


def canvas_of(places: pd.DataFrame, longest: int | None = CANVAS) -> Canvas:
    """Lay out one slide.

    Args:
        places: columns `x`, `y` (upper left corner on the slide), `width` and `height` (as found), in slide pixels.
        longest: pixels of the map's longer side at most, None for as many as the slide has; a slide is never enlarged,
            and the map of a sample never has more than `CANVAS`.
    """
    x, y, width, height = (places[name].to_numpy(np.float64) for name in PLACES)
    x, y = x - x.min(), y - y.min()
    extent = (float((x + width).max()), float((y + height).max()))
    covered = float((width * height).sum()) / (extent[0] * extent[1])
    complete = covered >= COMPLETE and len(places) >= FEWEST
    sides = [side for side in (longest, None if complete else CANVAS) if side is not None]
    scale = max([1.0, *(max(extent) / side for side in sides)])
    edges = [np.floor(edge / scale + 0.5).astype(np.int64) for edge in (x, y, x + width, y + height)]
    return Canvas(edges[0], edges[1], edges[2], edges[3], scale, complete)


def paint(canvas: Canvas, values: ArrayLike) -> Field:
    """One number per patch, drawn over its place."""
    field = np.full(canvas.shape, np.nan)
    for place, value in zip(_places(canvas), np.asarray(values, np.float64), strict=True):
        field[place] = value
    return field


def paint_tissue(canvas: Canvas, patches: Patches, padded: pd.DataFrame | None) -> Image:
    """The patches themselves on white.

    Args:
        canvas: of the slide.
        patches: as the store keeps them, (patches, height, width, 3).
        padded: `height` and `width` of each patch before it was padded, so that the padding is cut off again; None
            where other sizes were resized.
    """
    import PIL.Image

    tissue = np.full((*canvas.shape, 3), 255, np.uint8)
    for number, place in enumerate(_places(canvas)):
        wanted = tissue[place].shape[1::-1]
        if math.prod(wanted):
            height, width = patches.shape[1:3] if padded is None else padded[["height", "width"]].iloc[number]
            found = PIL.Image.fromarray(patches[number, :height, :width]).resize(wanted, PIL.Image.Resampling.BOX)
            tissue[place] = np.asarray(found)
    return tissue


def _places(canvas: Canvas) -> list[tuple[slice, slice]]:
    corners = zip(canvas.top, canvas.bottom, canvas.left, canvas.right, strict=True)
    return [(slice(top, bottom), slice(left, right)) for top, bottom, left, right in corners]
