"""Batches from the store, the same for every Keras backend."""

from __future__ import annotations

import math

import keras
import numpy as np
from numpy.typing import NDArray

from histopipe.store import Patches, PatchStore, Rows


class PatchBatches(keras.utils.PyDataset):
    """Batches of `rows` in the given order.

    Each item is a triple: patches uint8 (batch, height, width, 3), labels float32 (batch, 1), weights float32
    (batch,). The last batch may be smaller.
    """

    def __init__(
        self, store: PatchStore, rows: Rows, batch_size: int, class_weights: tuple[float, float] = (1.0, 1.0)
    ) -> None:
        super().__init__()
        self._store = store
        self._rows = rows
        self._batch_size = batch_size
        self._labels = store.index["label"].to_numpy()[rows].astype(np.float32)
        self._weights = np.where(self._labels > 0, class_weights[1], class_weights[0]).astype(np.float32)

    def __len__(self) -> int:
        return math.ceil(len(self._rows) / self._batch_size)

    def __getitem__(self, number: int) -> tuple[Patches, NDArray[np.float32], NDArray[np.float32]]:
        part = slice(number * self._batch_size, (number + 1) * self._batch_size)
        return self._store.gather(self._rows[part]), self._labels[part, None], self._weights[part]
