"""Deletion and insertion curves (Petsiuk, Das & Saenko 2018, RISE, arXiv:1806.07421).

A map is right about a network if the network's answer falls soon when the pixels that the map ranks first are taken
away (deletion), and rises soon when they are the first to be shown (insertion). What is taken away is replaced by the
patch's mean colour: structure goes, stain stays, and no black appears that no slide has.
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

STEPS = 4  # from a whole patch to a blank one; more cost more and tell little, since maps are coarse

Ranks = NDArray[np.int64]  # (patches, height, width)
Predictor = Callable[[Patches], Numbers]  # what is watched of patches (count, height, width, 3): (count,)


def shares(steps: int = STEPS) -> Numbers:
    """Shares of a patch at which the curves are measured, from 0 to 1, (steps + 1,)."""
    return np.linspace(0, 1, steps + 1)


def ranks(maps: Maps, generator: np.random.Generator) -> Ranks:
    """Place of each pixel in the falling order of its patch's map, from 0; pixels of one value come in random order."""
    flat = maps.reshape(len(maps), -1)
    order = np.lexsort((generator.random(flat.shape), -flat), axis=-1)
    places = np.empty_like(order)
    np.put_along_axis(places, order, np.arange(flat.shape[1])[np.newaxis], axis=1)
    return places.reshape(maps.shape)


def moved(maps: Maps, generator: np.random.Generator) -> Maps:
    """Each map somewhere else on its patch: flipped at random and shifted round the edges by a random distance.

    What chance would do is shown by such maps rather than by pixels in random order: those would take a patch away in
    specks, which disturbs a network in another way than taking away a region. Here shape and values are the map's own,
    only the place is not (a toroidal shift; Lotwick & Silverman 1982).
    """
    count, height, width = maps.shape
    rows = _round(height, count, generator)[:, :, np.newaxis]
    columns = _round(width, count, generator)[:, np.newaxis, :]
    return maps[np.arange(count)[:, np.newaxis, np.newaxis], rows, columns]


def _round(length: int, count: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Coordinates once round an axis, from a random one in a random direction, (count, length)."""
    first = generator.integers(0, length, (count, 1))
    forwards = generator.integers(0, 2, (count, 1)) == 1
    steps = np.arange(length)
    return (first + np.where(forwards, steps, -steps)) % length


def blank(patches: Patches) -> Patches:
    """Patches of the same shape, each of its mean colour alone."""
    mean = patches.mean(axis=(1, 2), keepdims=True).round().astype(np.uint8)
    return np.broadcast_to(mean, patches.shape)


def removal_curves(
    patches: Patches, orders: Sequence[Ranks], predict: Predictor, steps: int = STEPS
) -> tuple[Numbers, Numbers]:
    """What `predict` says while pixels go, and while they come.

    Args:
        patches: uint8 (patches, height, width, 3).
        orders: in which they go and come, each as `ranks` gives it.
        predict: a number for each patch of a batch.
        steps: in how many steps.

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
    """What is predicted with some pixels gone, and with some alone there, each (patches, steps - 1)."""
    first = [places < round(share * places[0].size) for share in shares(steps)[1:-1]]
    shown = np.stack([*(~taken for taken in first), *first])[..., np.newaxis]
    partly = np.where(shown, patches, blank(patches)).reshape(-1, *patches.shape[1:])
    gone, come = predict(partly).reshape(2, steps - 1, len(patches)).transpose(0, 2, 1)
    return gone, come


def area(curves: Numbers) -> Numbers:
    """Area under each curve over shares from 0 to 1, by trapezoids: (patches,) of (patches, steps + 1)."""
    return np.asarray(np.trapezoid(curves, dx=1 / (curves.shape[1] - 1), axis=1))
