"""Anatomy of a slide: where the tissue is, and where in it tumour, fat, lymphocytes and glands."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histopipe.ingest.synthetic.idc.plan import CasePlan
from histopipe.ingest.synthetic.textures import blur, draw_white_noise

Field = NDArray[np.float64]
Map = NDArray[np.int16]

PATCH = 50  # pixels
STEP = 10  # pixels between the nodes of a map
NODES = PATCH // STEP  # nodes per patch

EDGE = 128  # value of a map on the outline of its region; values inside are higher
_STEEPNESS = 70  # map values per standard deviation of the underlying field

_UNDERSIZED_SHARE = 0.01  # 96 of the 9,387 patches in Kaggle's sample


@dataclass(frozen=True)
class Anatomy:
    """The patches and maps of one slide.

    Attributes:
        rows, columns: grid position of each patch, (n,).
        labels: 1 for a patch that counts as tumour, else 0, (n,).
        height, width: size of the slide in pixels, at which patches are cut off.
        tissue, tumour, fat, lymphocytes, glands: maps with a node every `STEP` pixels, (5 r + 1, 5 c + 1) for a grid
            of r by c patches; 0-255, above `EDGE` inside the region.
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
    # wider than high, so that the tissue reaches the lower edge of the slide and is cut there
    side = math.sqrt(plan.patches)
    grid = math.ceil(1.05 * side) + 1, math.ceil(1.8 * side) + 1
    relief = _draw_relief(grid, generator)
    patch_relief = _average_per_patch(relief, grid)
    positions = _grow_region(patch_relief, plan.patches)
    tumour, labels = _draw_tumour(relief, grid, positions, plan.positives, generator)
    tissue = _make_map(relief, patch_relief[positions].min())
    inside = tissue > EDGE
    fat = _draw_fat(relief, tumour, inside, generator)
    glands = _draw_spots(inside, generator, radius=3, share=generator.uniform(0.01, 0.12))
    rows, columns = positions
    height, width = _choose_extent(rows, columns, generator)
    return Anatomy(
        rows=rows,
        columns=columns,
        labels=labels,
        height=height,
        width=width,
        tissue=tissue,
        tumour=tumour,
        fat=fat,
        lymphocytes=_draw_spots(inside, generator, radius=2, share=generator.uniform(0.01, 0.10)),
        glands=np.where(tumour > EDGE, 0, glands).astype(np.int16),
    )


def _draw_hills(shape: tuple[int, ...], radius: int, generator: np.random.Generator) -> Field:
    """Draw smooth hills of about `radius` nodes, with mean 0 and standard deviation 1."""
    hills = blur(draw_white_noise(generator, shape), max(1, radius)).astype(np.float64)
    standard: Field = (hills - hills.mean()) / max(float(hills.std()), 1.0)
    return standard


def _draw_relief(grid: tuple[int, int], generator: np.random.Generator) -> Field:
    """Draw a field that is highest in the middle of the tissue and falls off irregularly outwards."""
    shape = grid[0] * NODES + 1, grid[1] * NODES + 1
    down, across = np.linspace(0, 1, shape[0])[:, None], np.linspace(0, 1, shape[1])[None, :]
    middle = generator.uniform(0.55, 0.8), generator.uniform(0.4, 0.6)
    distance = ((down - middle[0]) * shape[0] / shape[1]) ** 2 + (across - middle[1]) ** 2
    broad = _draw_hills(shape, max(shape) // 10, generator)
    fine = _draw_hills(shape, 4, generator)
    return broad + 0.35 * fine - 9.0 * distance


def _average_per_patch(field: Field, grid: tuple[int, int]) -> Field:
    """Compute the mean of a field over each patch of the grid."""
    means: Field = field[:-1, :-1].reshape(grid[0], NODES, grid[1], NODES).mean(axis=(1, 3))
    return means


def _grow_region(heights: Field, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose `count` connected patches, adding the highest neighbour each time.

    Returns:
        Their rows and columns.
    """
    start = np.unravel_index(int(np.argmax(heights)), heights.shape)
    frontier = [(-float(heights[start]), int(start[0]), int(start[1]))]
    visited, chosen = {frontier[0][1:]}, list[tuple[int, int]]()
    while len(chosen) < count:
        _, row, column = heapq.heappop(frontier)
        chosen.append((row, column))
        for cell in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if 0 <= cell[0] < heights.shape[0] and 0 <= cell[1] < heights.shape[1] and cell not in visited:
                visited.add(cell)
                heapq.heappush(frontier, (-float(heights[cell]), *cell))
    rows, columns = np.array(chosen).T
    return rows, columns


def _make_map(field: Field, level: float) -> Map:
    """Make the map of the region in which `field` exceeds `level`."""
    return np.clip(np.rint(EDGE + _STEEPNESS * (field - level)), 0, 255).astype(np.int16)


def _draw_tumour(
    relief: Field,
    grid: tuple[int, int],
    positions: tuple[NDArray[np.int64], NDArray[np.int64]],
    positives: int,
    generator: np.random.Generator,
) -> tuple[Map, NDArray[np.int64]]:
    """Draw the map of the tumour and derive the labels; a patch that is half covered may get either label."""
    field = _draw_hills(relief.shape, max(relief.shape) // 10, generator)
    field = field + 0.15 * _draw_hills(relief.shape, 4, generator) + 0.35 * relief
    coverage = _average_per_patch(field, grid)[positions]
    order = np.argsort(-coverage, kind="stable")
    labels = np.zeros(len(coverage), np.int64)
    labels[order[:positives]] = 1
    # without positive patches there is no tumour at all, not even in patches less than half covered
    level = coverage[order[positives - 1]] if positives else field.max() + 2.0
    return _make_map(field, float(level)), labels


def _draw_fat(relief: Field, tumour: Map, inside: NDArray[np.bool_], generator: np.random.Generator) -> Map:
    """Draw fat over a random share of the tissue, mostly near the outline and least in the tumour."""
    field = _draw_hills(relief.shape, 6, generator) - 0.3 * relief - np.maximum(tumour - 100, 0) / 30.0
    share = generator.uniform(0.05, 0.45)
    return _make_map(field, float(np.quantile(field[inside], 1 - share)) if inside.any() else 0.0)


def _draw_spots(inside: NDArray[np.bool_], generator: np.random.Generator, radius: int, share: float) -> Map:
    """Draw scattered spots of about `radius` nodes over a `share` of the slide."""
    field = _draw_hills(inside.shape, radius, generator)
    return _make_map(field, float(np.quantile(field, 1 - share)))


def _choose_extent(
    rows: NDArray[np.int64], columns: NDArray[np.int64], generator: np.random.Generator
) -> tuple[int, int]:
    """Choose the height and width of the slide in pixels, sometimes within the last row or column of patches.

    The fewer patches are cut, the more often it happens, so that the expected share is the same for slides of any size.
    """
    extent = [(int(rows.max()) + 1) * PATCH, (int(columns.max()) + 1) * PATCH]
    axis, position = (
        (0, rows) if generator.random() < 0.8 else (1, columns)
    )  # in Kaggle's set, most are cut at the bottom
    cut = int((position == position.max()).sum())
    if generator.random() < _UNDERSIZED_SHARE * len(rows) / cut:
        extent[axis] -= int(generator.integers(1, PATCH))
    return extent[0], extent[1]
