"""Which patches an epoch takes, in which order and with which weights; needs no Keras."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from histopipe.data.store import Rows


def epoch_order(rows: Rows, seed: int, epoch: int, multiple: int = 1) -> Rows:
    """Shuffle `rows` for one epoch (from 0): other epochs differ, the same epoch and seed never do.

    Args:
        rows: all there are.
        seed: of the training.
        epoch: its number.
        multiple: what the number of rows is to be a multiple of; the few at the end are left out of this epoch.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    return generator.permutation(rows)[: len(rows) // multiple * multiple]


def cap_rows(rows: Rows, limit: int | None, seed: int) -> Rows:
    """At most `limit` of `rows`, drawn at random by `seed`, in their old order."""
    if limit is None or len(rows) <= limit:
        return rows
    return np.sort(epoch_order(rows, seed, 0)[:limit])


def balanced_weights(labels: NDArray[Any]) -> tuple[float, float]:
    """Weights of the negative and the positive class: the larger class's count over each class's own."""
    positive = int(labels.sum())
    counts = (len(labels) - positive, positive)
    return max(counts) / counts[0], max(counts) / counts[1]


def balanced_order(order: Rows, labels: NDArray[Any]) -> Rows:
    """An epoch of as many patches in which the classes alternate, so that every batch holds both in equal parts.

    Args:
        order: the epoch's patches, shuffled.
        labels: their labels, in the same order.

    Returns:
        Rows in which the rarer class stands more than once and the commoner one is cut short.
    """
    half = -(-len(order) // 2)
    pairs = np.stack([np.resize(order[labels == label], half) for label in (0, 1)], axis=1)
    return pairs.ravel()[: len(order)]
