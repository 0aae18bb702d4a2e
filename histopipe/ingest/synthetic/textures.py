"""Small textures that wrap around, from which every slide is composed.

A patch takes its window out of each texture, so that neighbours fit together and drawing is quick. All are
bytes, and most are ranked: their values are spread evenly over 0-255, so that `texture < t` holds on a share
t/256 of the area.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Field = NDArray[np.float64]

SIDE = 512  # pixels: larger than what the eye takes in at once, small enough for all textures to stay in cache

# Sizes in pixels of about 4 um, measured by eye on Kaggle's patches.
_FAT_CELL = 8.0
_ACINUS = 17.0
_WALL_STEPS = 90  # per pixel of distance from a fat cell's wall
_ACINUS_STEPS = 12  # per pixel of distance from an acinus' outline


@dataclass(frozen=True)
class Textures:
    """Bytes of shape (SIDE, SIDE) each, but for `noise` (SIDE, SIDE, 3).

    Attributes:
        small_nuclei: spots of about two pixels.
        large_nuclei: more irregular spots of three to four pixels.
        cords: elongated islands of about five by twelve pixels, as tumour cells grow in.
        fibres: thin wavy strands.
        clefts: the same, elsewhere; their brightest are the gaps between strands.
        fat: distance from the walls of fat cells.
        acini: distance from the outline of round glands, 128 on it, more inside.
        noise: the camera's, from 0 to `NOISE`.
    """

    small_nuclei: Bytes
    large_nuclei: Bytes
    cords: Bytes
    fibres: Bytes
    clefts: Bytes
    fat: Bytes
    acini: Bytes
    noise: Bytes

    def turned(self, generator: np.random.Generator) -> Textures:
        """The same textures, each shifted and mirrored by chance: no two slides show the same place."""
        return Textures(*(_turned(texture, generator) for texture in astuple(self)))


NOISE = 12  # grey levels from darkest to brightest


@lru_cache(maxsize=1)
def make_textures(seed: int) -> Textures:
    """Draw all textures; takes most of a second, so a process keeps them from one case to the next."""
    generator = np.random.default_rng([seed, 1])
    paths = _paths(generator, length=14)  # 14 steps up and 14 down, alternating: the first 2 n are n each way
    return Textures(
        small_nuclei=ranked(blurred(white(generator), 1, passes=1)),
        large_nuclei=_irregular_spots(generator),
        cords=ranked(_along(blurred(white(generator), 2, passes=2), paths[:10])),
        fibres=ranked(_along(white(generator), paths)),
        clefts=ranked(_along(blurred(white(generator), 1, passes=1), paths[:24])),
        fat=_fat_walls(generator),
        acini=_acini(generator),
        noise=_camera_noise(generator),
    )


def white(generator: np.random.Generator, shape: tuple[int, ...] = (SIDE, SIDE)) -> NDArray[np.int64]:
    """Independent values from 0 to 255."""
    return generator.integers(0, 256, shape)


def blurred(field: NDArray[np.int64], radius: int, passes: int = 3) -> NDArray[np.int64]:
    """Sums over squares of `2 radius + 1` pixels, wrapping around, `passes` times over.

    Whole numbers throughout: the sums, and so the slides, don't depend on how a machine rounds.
    """
    for axis in (0, 1) * passes:
        margin = [(radius + 1, radius) if a == axis else (0, 0) for a in (0, 1)]
        sums = np.cumsum(np.pad(field, margin, mode="wrap"), axis=axis)
        width, length = 2 * radius + 1, field.shape[axis]
        field = np.take(sums, range(width, width + length), axis) - np.take(sums, range(length), axis)
    return field


def ranked(field: NDArray[np.int64]) -> Bytes:
    """Bytes in the order of `field`, each value equally frequent."""
    order = np.argsort(field, axis=None, kind="stable")
    ranks = np.empty(field.size, np.uint8)
    ranks[order] = np.arange(field.size) * 256 // field.size
    return ranks.reshape(field.shape)


def _irregular_spots(generator: np.random.Generator) -> Bytes:
    """Spots of three to four pixels with finer ones in them, so that neighbours don't melt into one."""
    coarse = ranked(blurred(white(generator), 1, passes=2)).astype(np.int64)
    fine = ranked(blurred(white(generator), 1, passes=1)).astype(np.int64)
    return ranked(3 * coarse + 2 * fine)


def _paths(generator: np.random.Generator, length: int) -> list[NDArray[np.int64]]:
    """The pixels met from each in `length` steps up and down a slowly turning flow, as flat indices."""
    angles = ranked(blurred(white(generator), 24)) * (2 * np.pi / 256)
    step = np.stack([np.sin(angles), np.cos(angles)]).reshape(2, -1)
    starts = np.indices((SIDE, SIDE)).reshape(2, -1).astype(np.float64)
    places = {-1: starts, 1: starts.copy()}
    met = dict.fromkeys(places, np.arange(SIDE * SIDE))
    paths = []
    for _ in range(length):
        for sign, place in places.items():
            np.add(place, sign * step[:, met[sign]], out=place)
            rows, columns = np.floor(place).astype(np.int64) % SIDE
            met[sign] = rows * SIDE + columns
            paths.append(met[sign])
    return paths


def _along(field: NDArray[np.int64], paths: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Sum `field` over the paths of each pixel (line integral convolution, Cabral and Leedom 1993)."""
    flat = field.ravel()
    total = flat.copy()
    for path in paths:
        total += flat[path]
    return total.reshape(field.shape)


def _nearest(spacing: float, count: int, generator: np.random.Generator) -> tuple[Field, NDArray[np.int64]]:
    """Distances to the `count` nearest of points scattered `spacing` apart, and which points they are."""
    from scipy.spatial import cKDTree

    per_side = round(SIDE / spacing)
    corners = np.indices((per_side, per_side)).reshape(2, -1).T
    points = (corners + 0.9 * generator.random(corners.shape)) * (SIDE / per_side)
    pixels = np.moveaxis(np.indices((SIDE, SIDE)), 0, -1)
    distances, owners = cKDTree(points % SIDE, boxsize=SIDE).query(pixels, k=count)
    return distances, owners


def _fat_walls(generator: np.random.Generator) -> Bytes:
    distances, _ = _nearest(_FAT_CELL, 2, generator)
    return _as_bytes((distances[..., 1] - distances[..., 0]) * _WALL_STEPS)


def _acini(generator: np.random.Generator) -> Bytes:
    distances, owners = _nearest(_ACINUS, 1, generator)
    radii = generator.uniform(0.25, 0.5, int(owners.max()) + 1) * _ACINUS
    wobble = ranked(blurred(white(generator), 3)) / 128.0 - 1.0
    return _as_bytes(128 + _ACINUS_STEPS * (radii[owners] - distances + 1.5 * wobble))


def _camera_noise(generator: np.random.Generator) -> Bytes:
    """Sums of three dice: close to a bell shape."""
    return _as_bytes(generator.integers(0, NOISE // 3 + 1, (3, SIDE, SIDE, 3)).sum(axis=0))


def _as_bytes(values: NDArray[Any]) -> Bytes:
    clipped: Bytes = np.clip(values, 0, 255).astype(np.uint8)
    return clipped


def _turned(texture: Bytes, generator: np.random.Generator) -> Bytes:
    turned = np.rot90(texture, int(generator.integers(4)))
    turned = turned[::-1] if generator.integers(2) else turned
    return np.ascontiguousarray(np.roll(turned, generator.integers(0, SIDE, 2), axis=(0, 1)))
