"""Colour statistics of patches: stored by ingest and predictions, and compared to detect drift."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

COLOURS = [f"{colour}_{statistic}" for statistic in ("mean", "std") for colour in ("red", "green", "blue")]


def colour_statistics(patches: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Compute mean and standard deviation of each channel, (patches, 6), in the order of `COLOURS`."""
    pixels = patches.shape[1] * patches.shape[2]
    means = _channel_sums(patches) / pixels
    squares = _channel_sums(np.square(patches, dtype=np.uint16)) / pixels
    deviations = np.sqrt(squares - np.square(means))
    return np.concatenate([means, deviations], axis=1, dtype=np.float32)


def _channel_sums(values: NDArray[Any]) -> NDArray[np.uint64]:
    """Compute exact sums over each patch, (patches, 3).

    Rows are added up first: numpy is slow over a last axis of three.
    """
    count, height, width, _ = values.shape
    columns = np.add.reduce(values.reshape(count, height, 3 * width), axis=1, dtype=np.uint32)
    return columns.reshape(count, width, 3).sum(axis=1, dtype=np.uint64)
