"""Running a network over patches of a store."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from histopipe.data.store import PatchStore, Rows
from histopipe.networks.backend import on_tensorflow_cpu

if TYPE_CHECKING:
    import keras

BATCH_SIZE = 256  # large enough to keep a few cores busy; does not change the result beyond rounding


def logit_network(network: keras.Model) -> keras.Model:
    """The part of a network that ends before its sigmoid; shares its weights.

    Raises:
        ValueError: the network has no layer of that name.
    """
    import keras

    from histopipe.networks.architectures.blocks import OUTPUT_LAYER

    return for_prediction(keras.Model(network.input, network.get_layer(OUTPUT_LAYER).output))


def for_prediction(network: keras.Model) -> keras.Model:
    """Let a network predict by TensorFlow's own kernels where there is no GPU; returns it.

    Left alone, Keras has XLA compile every network that wasn't compiled for training, and anew for each size of a
    batch. On a CPU that costs more than it gains: with Keras 3.15 on one core, CancerNet took 21 times as long for a
    batch, and DenseNet201 72 s of CPU before its first one instead of 16.
    """
    if on_tensorflow_cpu():
        network.jit_compile = False
    return network


def predict_logits(logits: keras.Model, store: PatchStore, rows: Rows, title: str | None = None) -> NDArray[np.float64]:
    """Log odds of the positive class at `rows` of the store, (rows,).

    Logits rather than probabilities, since those of a sure network are rounded to 0 or 1 and can't be calibrated.

    Args:
        logits: what `logit_network` gives.
        title: of the progress bar; none is shown without it.
    """
    values = np.empty(len(rows), np.float64)
    with tqdm(total=len(rows), desc=title, unit="patch", unit_scale=True, file=sys.stderr, disable=not title) as bar:
        for start in range(0, len(rows), BATCH_SIZE):
            part = rows[start : start + BATCH_SIZE]
            batch = store.gather(part)
            if start:  # filled up, since a network is traced anew for another size, which takes a deep one long
                batch = np.concatenate([batch, np.zeros((BATCH_SIZE - len(part), *batch.shape[1:]), batch.dtype)])
            values[start : start + len(part)] = np.asarray(logits.predict_on_batch(batch))[: len(part), 0]
            bar.update(len(part))
    return values
