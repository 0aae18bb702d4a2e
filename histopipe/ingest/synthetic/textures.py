"""Small periodic textures, from which every slide is composed.

A patch is a window of each texture, so neighbouring patches fit together and drawing is fast. All textures are bytes,
and most are ranked: their values are spread evenly over 0-255, so `texture < t` holds on a share t/256 of the area.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Field = NDArray[np.float64]

SIDE = 512  # pixels: too large to notice the repetition, small enough for all textures to stay in cache

# Sizes in pixels of about 4 um, measured by eye on Kaggle's patches.
_FAT_CELL = 8.0
_ACINUS = 17.0
_WALL_STEPS = 90  # per pixel of distance from a fat cell's wall
_ACINUS_STEPS = 12  # per pixel of distance from an acinus' outline


@dataclass(frozen=True)
class Textures:
    """The textures of a seed, uint8 (SIDE, SIDE) each; `noise` is (SIDE, SIDE, 3).

    Attributes:
        small_nuclei: spots of about two pixels.
        large_nuclei: more irregular spots of three to four pixels.
        cords: elongated islands of about five by twelve pixels, as tumour cells grow in.
        fibres: thin wavy strands.
        clefts: thin wavy strands at other positions, used for the gaps between strands.
        fat: distance from the walls of fat cells.
        acini: distance from the outline of round glands: 128 on it, more inside.
        noise: noise of the camera, from 0 to `NOISE`.
    """

    small_nuclei: Bytes
    large_nuclei: Bytes
    cords: Bytes
    fibres: Bytes
    clefts: Bytes
    fat: Bytes
    acini: Bytes
    noise: Bytes

    def shuffle(self, generator: np.random.Generator) -> Textures:
        """Return the textures, each randomly rotated, mirrored and shifted, so that no two slides look the same."""
        return Textures(*(_transform(texture, generator) for texture in astuple(self)))


NOISE = 12  # grey levels from darkest to brightest


@lru_cache(maxsize=1)
def make_textures(seed: int) -> Textures:
    """Draw all textures. This takes almost a second, so a process caches them between cases."""
    generator = np.random.default_rng([seed, 1])
    paths = _trace_paths(
        generator, length=14
    )  # 14 steps up and 14 down in turn, so the first 2 n paths are n in each direction
    return Textures(
        small_nuclei=rank(blur(draw_white_noise(generator), 1, passes=1)),
        large_nuclei=_draw_irregular_spots(generator),
        cords=rank(_sum_along(blur(draw_white_noise(generator), 2, passes=2), paths[:10])),
        fibres=rank(_sum_along(draw_white_noise(generator), paths)),
        clefts=rank(_sum_along(blur(draw_white_noise(generator), 1, passes=1), paths[:24])),
        fat=_draw_fat_walls(generator),
        acini=_draw_acini(generator),
        noise=_draw_camera_noise(generator),
    )


def draw_white_noise(generator: np.random.Generator, shape: tuple[int, ...] = (SIDE, SIDE)) -> NDArray[np.int64]:
    """Draw independent values from 0 to 255."""
    return generator.integers(0, 256, shape)


def blur(field: NDArray[np.int64], radius: int, passes: int = 3) -> NDArray[np.int64]:
    """Sum a periodic field over squares with sides of `2 radius + 1` pixels, `passes` times.

    The sums are integers, so the slides don't depend on how a machine rounds.
    """
    for axis in (0, 1) * passes:
        margin = [(radius + 1, radius) if a == axis else (0, 0) for a in (0, 1)]
        sums = np.cumsum(np.pad(field, margin, mode="wrap"), axis=axis)
        width, length = 2 * radius + 1, field.shape[axis]
        field = np.take(sums, range(width, width + length), axis) - np.take(sums, range(length), axis)
    return field


def rank(field: NDArray[np.int64]) -> Bytes:
    """Replace values by bytes in the same order, each equally frequent."""
    order = np.argsort(field, axis=None, kind="stable")
    ranks = np.empty(field.size, np.uint8)
    ranks[order] = np.arange(field.size) * 256 // field.size
    return ranks.reshape(field.shape)


def _draw_irregular_spots(generator: np.random.Generator) -> Bytes:
    """Draw spots of three to four pixels with finer spots in them, so that neighbours stay separate."""
    coarse = rank(blur(draw_white_noise(generator), 1, passes=2)).astype(np.int64)
    fine = rank(blur(draw_white_noise(generator), 1, passes=1)).astype(np.int64)
    return rank(3 * coarse + 2 * fine)


def _trace_paths(generator: np.random.Generator, length: int) -> list[NDArray[np.int64]]:
    """Trace `length` steps up and down a smooth flow from every pixel.

    Returns:
        Flat indices of the pixels after each step, in turn up and down.
    """
    angles = rank(blur(draw_white_noise(generator), 24)) * (2 * np.pi / 256)
    step = np.stack([np.sin(angles), np.cos(angles)]).reshape(2, -1)
    starts = np.indices((SIDE, SIDE)).reshape(2, -1).astype(np.float64)
    positions = {-1: starts, 1: starts.copy()}
    pixels = dict.fromkeys(positions, np.arange(SIDE * SIDE))
    paths = []
    for _ in range(length):
        for sign, position in positions.items():
            np.add(position, sign * step[:, pixels[sign]], out=position)
            rows, columns = np.floor(position).astype(np.int64) % SIDE
            pixels[sign] = rows * SIDE + columns
            paths.append(pixels[sign])
    return paths


def _sum_along(field: NDArray[np.int64], paths: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Sum `field` over the paths of each pixel (line integral convolution, Cabral and Leedom 1993)."""
    flat = field.ravel()
    total = flat.copy()
    for path in paths:
        total += flat[path]
    return total.reshape(field.shape)


def _find_nearest_points(spacing: float, count: int, generator: np.random.Generator) -> tuple[Field, NDArray[np.int64]]:
    """Scatter points about `spacing` pixels apart and find the `count` nearest ones of every pixel.

    Returns:
        Their distances and their numbers.
    """
    from scipy.spatial import cKDTree

    per_side = round(SIDE / spacing)
    corners = np.indices((per_side, per_side)).reshape(2, -1).T
    points = (corners + 0.9 * generator.random(corners.shape)) * (SIDE / per_side)
    pixels = np.moveaxis(np.indices((SIDE, SIDE)), 0, -1)
    distances, owners = cKDTree(points % SIDE, boxsize=SIDE).query(pixels, k=count)
    return distances, owners


def _draw_fat_walls(generator: np.random.Generator) -> Bytes:
    distances, _ = _find_nearest_points(_FAT_CELL, 2, generator)
    return _convert_to_bytes((distances[..., 1] - distances[..., 0]) * _WALL_STEPS)


def _draw_acini(generator: np.random.Generator) -> Bytes:
    distances, owners = _find_nearest_points(_ACINUS, 1, generator)
    radii = generator.uniform(0.25, 0.5, int(owners.max()) + 1) * _ACINUS
    wobble = rank(blur(draw_white_noise(generator), 3)) / 128.0 - 1.0
    return _convert_to_bytes(128 + _ACINUS_STEPS * (radii[owners] - distances + 1.5 * wobble))


def _draw_camera_noise(generator: np.random.Generator) -> Bytes:
    """Draw sums of three uniform values, which are close to normally distributed."""
    return _convert_to_bytes(generator.integers(0, NOISE // 3 + 1, (3, SIDE, SIDE, 3)).sum(axis=0))


def _convert_to_bytes(values: NDArray[Any]) -> Bytes:
    clipped: Bytes = np.clip(values, 0, 255).astype(np.uint8)
    return clipped


def _transform(texture: Bytes, generator: np.random.Generator) -> Bytes:
    transformed = np.rot90(texture, int(generator.integers(4)))
    transformed = transformed[::-1] if generator.integers(2) else transformed
    return np.ascontiguousarray(np.roll(transformed, generator.integers(0, SIDE, 2), axis=(0, 1)))
