"""The sampling of training patches: which ones an epoch takes, in which order and with which weights; without Keras."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from histopipe.data.store import Rows


def epoch_order(rows: Rows, seed: int, epoch: int, multiple: int = 1) -> Rows:
    """Shuffle `rows` for one epoch (from 0); the same epoch and seed always give the same order.

    Args:
        rows: positions of all training patches.
        seed: the seed of the training.
        epoch: the number of the epoch, from 0.
        multiple: the number of rows is cut to a multiple of this; the few at the end are left out of this epoch.

    Returns:
        The shuffled rows.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    return generator.permutation(rows)[: len(rows) // multiple * multiple]


def cap_rows(rows: Rows, limit: int | None, seed: int) -> Rows:
    """Draw at most `limit` of `rows` at random by `seed`, and keep their order."""
    if limit is None or len(rows) <= limit:
        return rows
    return np.sort(epoch_order(rows, seed, 0)[:limit])


def balanced_weights(labels: NDArray[Any]) -> tuple[float, float]:
    """Compute weights of the negative and the positive class: the larger class's count over each class's own."""
    positive = int(labels.sum())
    counts = (len(labels) - positive, positive)
    return max(counts) / counts[0], max(counts) / counts[1]


def balanced_order(order: Rows, labels: NDArray[Any]) -> Rows:
    """Return an epoch of the same length in which the classes alternate, so that every batch has equal parts of both.

    Args:
        order: the epoch's patches, shuffled.
        labels: their labels, in the same order.

    Returns:
        Rows in which patches of the rarer class are repeated and some of the commoner class are missing.
    """
    half = -(-len(order) // 2)
    pairs = np.stack([np.resize(order[labels == label], half) for label in (0, 1)], axis=1)
    return pairs.ravel()[: len(order)]
