"""Slides reassembled from their patches' coordinates.

A map is drawn on a canvas, where each pixel represents `scale` x `scale` pixels of the slide. A patch's corners are
scaled and then rounded, so patches that touch on the slide share an edge on the canvas: no seams and no overlaps at any
offset.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from histopipe.data.store import Patches

CANVAS = 1200  # pixels of the longer side of a sample's map, whose patches are drawn as dots
COMPLETE = 0.2  # least share of its bounding box that the patches of a whole slide cover; a sample covers less
FEWEST = 10  # least number of patches of a whole slide, since a single patch covers its bounding box
PLACES = ("x", "y", "width", "height")

Image = NDArray[np.uint8]  # (height, width, 3)
Field = NDArray[np.float64]  # (height, width); NaN where there is no patch


@dataclass(frozen=True)
class Canvas:
    """The positions of one slide's patches on its map.

    Attributes:
        left, top, right, bottom: edges of each patch, in pixels of the map; right and bottom are exclusive.
        scale: slide pixels per pixel of the map, along each side.
        complete: whether the patches cover the slide, and aren't a sample.
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
        """Left, right, bottom and top of the map, where whole numbers are edges of pixels and not their centres."""
        return 0, self.shape[1], self.shape[0], 0


def lay_out_patches(patches: pd.DataFrame, longest: int | None = CANVAS) -> Canvas:
    """Lay out the patches of one slide.

    Args:
        patches: columns `x`, `y` (upper left corner on the slide), `width` and `height` (before resizing or padding),
            in slide pixels.
        longest: maximum number of pixels along the map's longer side, None for as many as the slide has; a slide is
            never enlarged, and the map of a sample never has more than `CANVAS`.
    """
    x, y, width, height = (patches[name].to_numpy(np.float64) for name in PLACES)
    x, y = x - x.min(), y - y.min()
    extent = (float((x + width).max()), float((y + height).max()))
    covered = float((width * height).sum()) / (extent[0] * extent[1])
    complete = covered >= COMPLETE and len(patches) >= FEWEST
    sides = [side for side in (longest, None if complete else CANVAS) if side is not None]
    scale = max([1.0, *(max(extent) / side for side in sides)])
    edges = [np.floor(edge / scale + 0.5).astype(np.int64) for edge in (x, y, x + width, y + height)]
    return Canvas(edges[0], edges[1], edges[2], edges[3], scale, complete)


def paint(canvas: Canvas, values: ArrayLike) -> Field:
    """Return the map, (height, width), with each patch's area filled with its value and NaN elsewhere."""
    field = np.full(canvas.shape, np.nan)
    for area, value in zip(_areas(canvas), np.asarray(values, np.float64), strict=True):
        field[area] = value
    return field


def paint_tissue(canvas: Canvas, patches: Patches, padded: pd.DataFrame | None) -> Image:
    """Draw the patches themselves on white.

    Args:
        canvas: the slide's canvas.
        patches: the stored patches, (patches, height, width, 3).
        padded: `height` and `width` of each patch before it was padded, so that the padding can be removed; None if
            patches of other sizes were resized.
    """
    import PIL.Image

    tissue = np.full((*canvas.shape, 3), 255, np.uint8)
    for number, area in enumerate(_areas(canvas)):
        size = tissue[area].shape[1::-1]
        if math.prod(size):
            height, width = patches.shape[1:3] if padded is None else padded[["height", "width"]].iloc[number]
            image = PIL.Image.fromarray(patches[number, :height, :width]).resize(size, PIL.Image.Resampling.BOX)
            tissue[area] = np.asarray(image)
    return tissue


def _areas(canvas: Canvas) -> list[tuple[slice, slice]]:
    corners = zip(canvas.top, canvas.bottom, canvas.left, canvas.right, strict=True)
    return [(slice(top, bottom), slice(left, right)) for top, bottom, left, right in corners]
