"""Batches from the store, the same for every Keras backend."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from histopipe.data.store import Patches, PatchStore, Rows
from histopipe.networks.backend import backend_name, is_on_tensorflow_cpu

AHEAD = 2  # batches prefetched for a GPU


class PatchBatches(keras.utils.PyDataset):
    """Batches of `rows` in their order.

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


def for_fit(batches: PatchBatches) -> Any:
    """Convert batches to what Keras' `fit` handles fastest: on TensorFlow a `tf.data.Dataset` without tuning.

    Batches are read ahead for a GPU only: on a CPU a thread that reads takes from those that compute, and handing over
    costs more than a batch.
    """
    if backend_name() != "tensorflow":
        return batches
    import tensorflow as tf

    shapes = [(None, *part.shape[1:]) for part in batches[0]]
    kinds = [part.dtype for part in batches[0]]

    def read(number: Any) -> Any:
        arrays = tf.numpy_function(batches.__getitem__, [number], kinds)
        return tuple(tf.ensure_shape(part, shape) for part, shape in zip(arrays, shapes, strict=True))

    # by number, since `from_generator` costs a millisecond per batch
    data = tf.data.Dataset.range(len(batches)).map(read)
    return untuned(data if is_on_tensorflow_cpu() else data.prefetch(AHEAD))


def untuned(data: Any) -> Any:
    """Turn TensorFlow's tuner off for a `tf.data.Dataset`, and return it.

    With the tuner, also in the data sets that Keras makes of batches, `fit` sometimes waits at its end for up to as
    long as it ran: the tuner's thread misses the signal to stop, and sleeps for the rest of its period, which doubles
    each time (seen with TensorFlow 2.21).
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return data.with_options(options)
