"""Batch-norm statistics of short trainings.

A batch norm's moving averages trail behind weights that still change quickly: after a few hundred steps a network can
rank patches well in training mode and at chance in use. Statistics taken afresh, with the weights at rest, mend that
(Wu & Johnson 2021, arXiv:2105.07576, section 3). Trainings of full length are left as their recipes have them.
"""

from __future__ import annotations

from typing import Any

import keras

from histopipe.store import PatchStore, Rows

SETTLED_STEPS = 1000  # ten times the memory of a moving average with Keras' momentum of .99
SAMPLE = 2048  # patches
BATCH_SIZE = 128


def refresh_batch_norm(network: keras.Model, store: PatchStore, rows: Rows) -> None:
    """Replace the moving averages by plain ones over `rows`, as they are in use: not augmented."""
    norms = [layer for layer in _layers(network) if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    seen = 0
    for start in range(0, len(rows), BATCH_SIZE):
        count = len(rows[start : start + BATCH_SIZE])
        for norm in norms:
            norm.momentum = seen / (seen + count)  # makes the moving average the mean of all patches so far
        seen += count
        network(store.gather(rows[start : start + BATCH_SIZE]), training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _layers(model: keras.Model) -> list[Any]:
    return list(model._flatten_layers())
