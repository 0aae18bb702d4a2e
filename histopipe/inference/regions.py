"""Outlines of what is called positive: cells of a grid that share a side become one polygon, with its holes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Corner = tuple[int, int]  # column and row of a corner of the grid
Ring = list[Corner]  # closed: the first corner again at its end

_RIGHT = {(1, 0): (0, 1), (0, 1): (-1, 0), (-1, 0): (0, -1), (0, -1): (1, 0)}


def regions(cells: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.int64], list[Ring]]]:
    """Each region of a grid.

    Args:
        cells: what belongs to a region, (rows, columns).

    Yields:
        Row and column of each of the region's cells, (cells, 2), and its rings in corners of the grid: the outline,
        then its holes.
    """
    labels, _ = ndimage.label(cells)  # by sides, not corners
    for label, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        part = labels[rows, columns] == label
        rings = [[(x + columns.start, y + rows.start) for x, y in ring] for ring in _rings(part)]
        yield np.argwhere(part) + np.array((rows.start, columns.start)), sorted(rings, key=lambda ring: -_area(ring))


def _rings(part: NDArray[np.bool_]) -> list[Ring]:
    """Closed paths along a region's border, the region on their right: outlines run clockwise on the screen."""
    padded = np.pad(part, 1)
    leaving: dict[Corner, list[Corner]] = {}
    for row, column in np.argwhere(part):
        y, x = int(row), int(column)
        for start, step, beyond in (
            ((x, y), (1, 0), (y, x + 1)),
            ((x + 1, y), (0, 1), (y + 1, x + 2)),
            ((x + 1, y + 1), (-1, 0), (y + 2, x + 1)),
            ((x, y + 1), (0, -1), (y + 1, x)),
        ):
            if not padded[beyond]:
                leaving.setdefault(start, []).append(step)
    rings = []
    while leaving:
        rings.append(_ring(leaving))
    return rings


def _ring(leaving: dict[Corner, list[Corner]]) -> Ring:
    """Follow the border from one of the corners left until it closes; steps taken are removed."""
    start = corner = next(iter(leaving))
    first = step = leaving[start][0]
    ring = [start]
    while True:
        _take(leaving, corner, step)
        corner = (corner[0] + step[0], corner[1] + step[1])
        if corner == start and (start not in leaving or first == _RIGHT[step]):
            return [*ring, start]
        onward = leaving[corner]
        turn = _RIGHT[step] if _RIGHT[step] in onward else onward[0]  # where two meet, each keeps to its own cells
        if turn != step:
            ring.append(corner)
        step = turn


def _take(leaving: dict[Corner, list[Corner]], corner: Corner, step: Corner) -> None:
    leaving[corner].remove(step)
    if not leaving[corner]:
        del leaving[corner]


def _area(ring: Ring) -> float:
    """Positive for an outline, negative for a hole."""
    return sum(x * below - right * y for (x, y), (right, below) in pairwise(ring)) / 2
