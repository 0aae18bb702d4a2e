"""Outlines of positive regions: grid cells that share a side become one polygon with its holes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

if TYPE_CHECKING:
    import shapely

Corner = tuple[int, int]  # column and row of a corner of the grid
Ring = list[Corner]  # closed: the first corner is repeated at the end


def regions(cells: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.int64], list[Ring]]]:
    """Yield each region of a grid.

    Outlines run clockwise on the screen from their topmost, then leftmost corner; holes run the other way. Polygons are
    valid also if a region touches itself at a corner: what it encloses there is a hole.

    Args:
        cells: mask of the cells that belong to a region, (rows, columns).

    Yields:
        Row and column of each cell of the region, (cells, 2), and its rings in corners of the grid: the outline, then
        its holes.
    """
    labels, _ = ndimage.label(cells)  # by sides, not corners
    outlines = _outlines(labels)
    for label, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        part = labels[rows, columns] == label
        yield np.argwhere(part) + np.array((rows.start, columns.start)), outlines[label]


def _outlines(labels: NDArray[np.int32]) -> dict[int, list[Ring]]:
    """Return the rings of each label's region."""
    import shapely

    rows, columns = np.nonzero(labels)
    union = shapely.coverage_union_all(shapely.box(rows, columns, rows + 1, columns + 1))
    # normalised with rows before columns, a ring starts at its topmost corner, the corner of its first cell
    polygons = shapely.simplify(shapely.normalize(shapely.get_parts(union)), 0)
    rings = [[_corners(ring) for ring in (polygon.exterior, *polygon.interiors)] for polygon in polygons]
    return {int(labels[row, column]): polygon for polygon in rings for column, row in [polygon[0][0]]}


def _corners(ring: shapely.LinearRing) -> Ring:
    return [(int(column), int(row)) for row, column in ring.coords]
