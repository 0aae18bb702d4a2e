"""Where on a slide the tissue lies, and where in it the tumour, fat, lymphocytes and glands."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histopipe.ingest.synthetic.idc.plan import CasePlan
from histopipe.ingest.synthetic.textures import blurred, white

Field = NDArray[np.float64]
Map = NDArray[np.int16]

PATCH = 50  # pixels
STEP = 10  # pixels between the nodes of a map
NODES = PATCH // STEP  # nodes per patch

EDGE = 128  # the value of a map on the outline of its region; more inside
_STEEPNESS = 70  # map values per standard deviation of the field it is made from

_UNDERSIZED_SHARE = 0.01  # 96 of the 9,387 patches in Kaggle's sample


@dataclass(frozen=True)
class Anatomy:
    """One slide: its patches and its maps.

    Attributes:
        rows, columns: grid position of each patch, (n,).
        labels: 1 where the patch counts as tumour, (n,).
        height, width: pixels of the slide; patches beyond are cut off.
        tissue, tumour, fat, lymphocytes, glands: maps with a node every `STEP` pixels, for a grid of r by c
            patches (5 r + 1, 5 c + 1); 0-255, more than `EDGE` in the region.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    labels: NDArray[np.int64]
    height: int
    width: int
    tissue: Map
    tumour: Map
    fat: Map
    lymphocytes: Map
    glands: Map


def lay_out(plan: CasePlan, generator: np.random.Generator) -> Anatomy:
    """Lay out one slide with exactly the patches and positives of its plan."""
    # Flatter than wide, so that the tissue reaches the lower edge of the slide and is cut there.
    side = math.sqrt(plan.patches)
    grid = math.ceil(1.05 * side) + 1, math.ceil(1.8 * side) + 1
    relief = _relief(grid, generator)
    relief_of_cells = _per_cell(relief, grid)
    cells = _grow(relief_of_cells, plan.patches)
    tumour, labels = _tumour(relief, grid, cells, plan.positives, generator)
    tissue = _outlined(relief, relief_of_cells[cells].min())
    inside = tissue > EDGE
    fat = _fat(relief, tumour, inside, generator)
    glands = _spots(inside, generator, radius=3, share=generator.uniform(0.01, 0.12))
    rows, columns = cells
    height, width = _extent(rows, columns, generator)
    return Anatomy(
        rows=rows,
        columns=columns,
        labels=labels,
        height=height,
        width=width,
        tissue=tissue,
        tumour=tumour,
        fat=fat,
        lymphocytes=_spots(inside, generator, radius=2, share=generator.uniform(0.01, 0.10)),
        glands=np.where(tumour > EDGE, 0, glands).astype(np.int16),
    )


def _landscape(shape: tuple[int, ...], radius: int, generator: np.random.Generator) -> Field:
    """Smooth hills of about `radius` nodes, mean 0 and standard deviation 1."""
    hills = blurred(white(generator, shape), max(1, radius)).astype(np.float64)
    standard: Field = (hills - hills.mean()) / max(float(hills.std()), 1.0)
    return standard


def _relief(grid: tuple[int, int], generator: np.random.Generator) -> Field:
    """High in the middle of the tissue, lower outwards, with a ragged outline."""
    shape = grid[0] * NODES + 1, grid[1] * NODES + 1
    down, across = np.linspace(0, 1, shape[0])[:, None], np.linspace(0, 1, shape[1])[None, :]
    middle = generator.uniform(0.55, 0.8), generator.uniform(0.4, 0.6)
    distance = ((down - middle[0]) * shape[0] / shape[1]) ** 2 + (across - middle[1]) ** 2
    broad = _landscape(shape, max(shape) // 10, generator)
    fine = _landscape(shape, 4, generator)
    return broad + 0.35 * fine - 9.0 * distance


def _per_cell(field: Field, grid: tuple[int, int]) -> Field:
    """Mean of a field over each patch of the grid."""
    means: Field = field[:-1, :-1].reshape(grid[0], NODES, grid[1], NODES).mean(axis=(1, 3))
    return means


def _grow(heights: Field, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of `count` connected cells, always adding the highest neighbour of those there."""
    start = np.unravel_index(int(np.argmax(heights)), heights.shape)
    frontier = [(-float(heights[start]), int(start[0]), int(start[1]))]
    seen, grown = {frontier[0][1:]}, list[tuple[int, int]]()
    while len(grown) < count:
        _, row, column = heapq.heappop(frontier)
        grown.append((row, column))
        for cell in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if 0 <= cell[0] < heights.shape[0] and 0 <= cell[1] < heights.shape[1] and cell not in seen:
                seen.add(cell)
                heapq.heappush(frontier, (-float(heights[cell]), *cell))
    rows, columns = np.array(grown).T
    return rows, columns


def _outlined(field: Field, level: float) -> Map:
    """A map whose region is where `field` exceeds `level`."""
    return np.clip(np.rint(EDGE + _STEEPNESS * (field - level)), 0, 255).astype(np.int16)


def _tumour(
    relief: Field,
    grid: tuple[int, int],
    cells: tuple[NDArray[np.int64], NDArray[np.int64]],
    positives: int,
    generator: np.random.Generator,
) -> tuple[Map, NDArray[np.int64]]:
    """A map of the tumour, and the labels it gives; a patch half covered may get either."""
    field = _landscape(relief.shape, max(relief.shape) // 10, generator)
    field = field + 0.15 * _landscape(relief.shape, 4, generator) + 0.35 * relief
    covered = _per_cell(field, grid)[cells]
    order = np.argsort(-covered, kind="stable")
    labels = np.zeros(len(covered), np.int64)
    labels[order[:positives]] = 1
    # With no positive patch there is no tumour at all, not even in patches less than half covered.
    level = covered[order[positives - 1]] if positives else field.max() + 2.0
    return _outlined(field, float(level)), labels


def _fat(relief: Field, tumour: Map, inside: NDArray[np.bool_], generator: np.random.Generator) -> Map:
    """Fat over a share of the tissue that differs by case, most near the outline, least in the tumour."""
    field = _landscape(relief.shape, 6, generator) - 0.3 * relief - np.maximum(tumour - 100, 0) / 30.0
    share = generator.uniform(0.05, 0.45)
    return _outlined(field, float(np.quantile(field[inside], 1 - share)) if inside.any() else 0.0)


def _spots(inside: NDArray[np.bool_], generator: np.random.Generator, radius: int, share: float) -> Map:
    """Scattered spots of about `radius` nodes over a `share` of the slide."""
    field = _landscape(inside.shape, radius, generator)
    return _outlined(field, float(np.quantile(field, 1 - share)))


def _extent(rows: NDArray[np.int64], columns: NDArray[np.int64], generator: np.random.Generator) -> tuple[int, int]:
    """Height and width of the slide in pixels; some slides end within their last row or column of patches.

    The fewer patches that cuts, the more often: slides of any size lose the same share on average.
    """
    extent = [(int(rows.max()) + 1) * PATCH, (int(columns.max()) + 1) * PATCH]
    axis, position = (0, rows) if generator.random() < 0.8 else (1, columns)  # in Kaggle's set, most are cut below
    cut = int((position == position.max()).sum())
    if generator.random() < _UNDERSIZED_SHARE * len(rows) / cut:
        extent[axis] -= int(generator.integers(1, PATCH))
    return extent[0], extent[1]
