"""Batches from the store, the same for every Keras backend."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from histopipe.data.store import Patches, PatchStore, Rows
from histopipe.networks.backend import backend_name, on_tensorflow_cpu

AHEAD = 2  # batches that wait for their step on a GPU


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


def for_fit(batches: PatchBatches) -> Any:
    """The batches as Keras' `fit` best takes them: on TensorFlow as a `tf.data.Dataset` whose pipeline isn't tuned.

    Batches are read ahead for a GPU only: on a CPU a thread that reads takes from those that compute, and handing over
    costs more than a batch.
    """
    if backend_name() != "tensorflow":
        return batches
    import tensorflow as tf

    shapes = [(None, *part.shape[1:]) for part in batches[0]]
    kinds = [part.dtype for part in batches[0]]

    def read(number: Any) -> Any:
        parts = tf.numpy_function(batches.__getitem__, [number], kinds)
        return tuple(tf.ensure_shape(part, shape) for part, shape in zip(parts, shapes, strict=True))

    # by number, not `from_generator`, which takes a millisecond a batch for itself
    data = tf.data.Dataset.range(len(batches)).map(read)
    return untuned(data if on_tensorflow_cpu() else data.prefetch(AHEAD))


def untuned(data: Any) -> Any:
    """The `tf.data.Dataset` with TensorFlow's tuner off.

    With it, as in what Keras makes of batches itself, `fit` now and then waits for the tuner at its end, by up to as
    long as it took: the tuner's thread misses that it was told to stop, and sleeps on for what is left of its period,
    which doubles each time (seen with TensorFlow 2.21).
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return data.with_options(options)
