"""Tiles of a slide at the resolution of a model's patches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from histopipe.inference.slides.read_ahead import read_ahead
from histopipe.inference.slides.slide import Slide
from histopipe.inference.slides.tissue import Mask, Overview, tissue_shares
from histopipe.ingest.datasets import MemberRejected
from histopipe.ingest.images import Patch, pad_patch, resize_patch

COARSEST = (
    1.25  # largest ratio of pixel sizes, slide to model: enlarged pixels would lack the detail that it has learnt
)
TISSUE = 0.1  # least share of tissue in a tile: nearly all real IDC patches have that much
MOST_TILES = 10**7  # per slide; one of 5 x 8 cm has 100,000 of 0.2 mm
RUN = 2**22  # pixels read at once, unless a single tile has more


class Tile(NamedTuple):
    """A tile's column and row in the grid, and its box on the slide in whole pixels of level 0."""

    column: int
    row: int
    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True)
class Grid:
    """The grid of a slide's tiles.

    Attributes:
        x, y: the edges of columns and rows, in pixels of level 0; may be fractional.
        size: width and height of the slide.
        patch: height and width to which a whole tile is resized.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    size: tuple[int, int]
    patch: tuple[int, int]

    @property
    def side(self) -> tuple[float, float]:
        """The width and height of a tile in pixels of level 0."""
        return float(self.x[1]), float(self.y[1])

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of rows and columns."""
        return len(self.y) - 1, len(self.x) - 1

    def corner(self, column: int, row: int) -> tuple[int, int]:
        """Return the top left corner of a tile, in whole pixels of level 0, within the slide."""
        return min(int(self.x[column] + 0.5), self.size[0]), min(int(self.y[row] + 0.5), self.size[1])

    def tile(self, column: int, row: int) -> Tile:
        """Return a tile, cut off at the end of the slide."""
        return Tile(column, row, *self.corner(column, row), *self.corner(column + 1, row + 1))


def make_grid(slide: Slide, mpp: float, patch: tuple[int, int]) -> Grid:
    """Divide a slide into tiles.

    Args:
        slide: the slide.
        mpp: pixel size of the patches that the model was trained on, in micrometres.
        patch: height and width of these patches, in pixels.

    Raises:
        MemberRejected: the slide's resolution is lower than the model's patches need, or it would have more than
            `MOST_TILES` tiles.
    """
    if max(slide.pixel.x, slide.pixel.y) > COARSEST * mpp:
        raise MemberRejected("scanned more coarsely than the model's patches")
    sides = patch[1] * mpp / slide.pixel.x, patch[0] * mpp / slide.pixel.y
    columns, rows = (math.ceil(whole / side) for whole, side in zip(slide.size, sides, strict=True))
    if columns * rows > MOST_TILES:
        raise MemberRejected(f"absurd dimensions: over {MOST_TILES:,} tiles")
    across, down = (
        side * np.arange(count + 1, dtype=np.float64) for side, count in zip(sides, (columns, rows), strict=True)
    )
    return Grid(across, down, slide.size, patch)


def tissue_tiles(grid: Grid, overview: Overview, mask: Mask) -> list[Tile]:
    """Return the tiles with tissue, row by row.

    Raises:
        MemberRejected: there is no tissue.
    """
    shares = tissue_shares(mask, grid.x / overview.scale[0], grid.y / overview.scale[1])
    tiles = [grid.tile(int(column), int(row)) for row, column in np.argwhere(shares >= TISSUE)]
    if not tiles:
        raise MemberRejected("no tissue found")
    return [tile for tile in tiles if tile.right > tile.left and tile.bottom > tile.top]


def read_tiles(slide: Slide, grid: Grid, tiles: list[Tile]) -> Iterator[tuple[Tile, Patch]]:
    """Yield each tile with its pixels, uint8 of the grid's `patch` size; threads read ahead, row by row.

    Raises:
        MemberRejected: the file is damaged.
    """
    level = slide.level_for(min(grid.side[0] / grid.patch[1], grid.side[1] / grid.patch[0]))
    area = grid.side[0] * grid.side[1] / slide.downsample(level) ** 2
    for run, patches in read_ahead(
        lambda run: (run, _read_run(slide, level, grid, run)), _runs(tiles, max(1, int(RUN / area)))
    ):
        yield from zip(run, patches, strict=True)


def _runs(tiles: list[Tile], longest: int) -> Iterator[list[Tile]]:
    """Yield runs of adjacent tiles of a row, at most `longest` tiles each."""
    run: list[Tile] = []
    for tile in tiles:
        if run and (tile.row != run[-1].row or tile.column != run[-1].column + 1 or len(run) == longest):
            yield run
            run = []
        run.append(tile)
    if run:
        yield run


def _read_run(slide: Slide, level: int, grid: Grid, run: list[Tile]) -> list[Patch]:
    first, last = run[0], run[-1]
    whole, (left, top, _, bottom) = slide.read_around(level, (first.left, first.top, last.right, last.bottom))
    scale, patches = slide.downsample(level), []
    for tile in run:
        start = left + (tile.left - first.left) / scale
        end = min(left + (tile.right - first.left) / scale, whole.shape[1])
        size = (
            min(grid.patch[0], max(1, round(grid.patch[0] * (tile.bottom - tile.top) / grid.side[1]))),
            min(grid.patch[1], max(1, round(grid.patch[1] * (tile.right - tile.left) / grid.side[0]))),
        )
        around = whole[:, int(start) : math.ceil(end)]
        pixels = resize_patch(around, size, (start - int(start), top, end - int(start), bottom))
        patches.append(pad_patch(pixels, grid.patch))
    return patches
