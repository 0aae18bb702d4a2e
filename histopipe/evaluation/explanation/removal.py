"""Deletion and insertion curves (Petsiuk, Das & Saenko 2018, RISE, arXiv:1806.07421).

A map is faithful to a network if the network's prediction falls early when the pixels that the map ranks first are
removed (deletion), and rises early when these pixels are shown first (insertion). Removed pixels are replaced by the
patch's mean colour. This removes structure and keeps the stain, and it adds no black, which doesn't occur on slides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from histopipe.data.store import Patches
from histopipe.evaluation.metrics import Numbers

if TYPE_CHECKING:
    from histopipe.evaluation.explanation.maps import Maps

STEPS = 4  # from a whole patch to a blank one; more steps cost time and add little, since maps are coarse

Ranks = NDArray[np.int64]  # (patches, height, width)
Predictor = Callable[[Patches], Numbers]  # a number per patch: (count, height, width, 3) to (count,)


def removal_shares(steps: int = STEPS) -> Numbers:
    """Return the shares of a patch at which the curves are computed, from 0 to 1, (steps + 1,)."""
    return np.linspace(0, 1, steps + 1)


def rank_pixels(maps: Maps, generator: np.random.Generator) -> Ranks:
    """Rank the pixels of each patch by falling values of its map, from 0; pixels of equal value in random order."""
    flat = maps.reshape(len(maps), -1)
    order = np.lexsort((generator.random(flat.shape), -flat), axis=-1)
    places = np.empty_like(order)
    np.put_along_axis(places, order, np.arange(flat.shape[1])[np.newaxis], axis=1)
    return places.reshape(maps.shape)


def move_maps(maps: Maps, generator: np.random.Generator) -> Maps:
    """Move each map to a random position: flip it at random and shift it around the edges by a random distance.

    Moved maps represent chance better than pixels in random order. Those would remove a patch in specks, which affects
    a network differently from removing a region. A moved map keeps its shape and values, and only its position changes
    (a toroidal shift; Lotwick & Silverman 1982).
    """
    count, height, width = maps.shape
    rows = _rotated_axes(height, count, generator)[:, :, np.newaxis]
    columns = _rotated_axes(width, count, generator)[:, np.newaxis, :]
    return maps[np.arange(count)[:, np.newaxis, np.newaxis], rows, columns]


def _rotated_axes(length: int, count: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Return the coordinates of an axis, rotated by a random distance in a random direction, (count, length)."""
    first = generator.integers(0, length, (count, 1))
    forwards = generator.integers(0, 2, (count, 1)) == 1
    steps = np.arange(length)
    return (first + np.where(forwards, steps, -steps)) % length


def blank(patches: Patches) -> Patches:
    """Replace all pixels of each patch by its mean colour."""
    mean = patches.mean(axis=(1, 2), keepdims=True).round().astype(np.uint8)
    return np.broadcast_to(mean, patches.shape)


def removal_curves(
    patches: Patches, orders: Sequence[Ranks], predict: Predictor, steps: int = STEPS
) -> tuple[Numbers, Numbers]:
    """Predict patches while their pixels are removed, and while they are shown.

    Args:
        patches: uint8 (patches, height, width, 3).
        orders: orders of the pixels, each a result of `rank_pixels`.
        predict: function that returns a number for each patch of a batch.
        steps: number of steps.

    Returns:
        Deletion and insertion, each (orders, patches, steps + 1): from the whole patch to the blank one, and the
        reverse.
    """
    whole, empty = np.split(predict(np.concatenate([patches, blank(patches)])), 2)
    inside = [_between(patches, places, predict, steps) for places in orders]
    deletion = [np.column_stack([whole, gone, empty]) for gone, _ in inside]
    insertion = [np.column_stack([empty, come, whole]) for _, come in inside]
    return np.stack(deletion), np.stack(insertion)


def _between(patches: Patches, places: Ranks, predict: Predictor, steps: int) -> tuple[Numbers, Numbers]:
    """Predict patches with some pixels removed, and with only these pixels shown, each (patches, steps - 1)."""
    first = [places < round(share * places[0].size) for share in removal_shares(steps)[1:-1]]
    shown = np.stack([*(~taken for taken in first), *first])[..., np.newaxis]
    partly = np.where(shown, patches, blank(patches)).reshape(-1, *patches.shape[1:])
    gone, come = predict(partly).reshape(2, steps - 1, len(patches)).transpose(0, 2, 1)
    return gone, come


def area_under_curve(curves: Numbers) -> Numbers:
    """Compute the area under each curve over shares from 0 to 1 by trapezoids: (patches, steps + 1) to (patches,)."""
    return np.asarray(np.trapezoid(curves, dx=1 / (curves.shape[1] - 1), axis=1))
