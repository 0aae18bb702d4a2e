"""Calibration inside a network: the temperature and the offset of its logit, folded into the last layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from histopipe.networks.architectures.blocks import OUTPUT_LAYER

if TYPE_CHECKING:
    import keras


@contextmanager
def calibrated(network: keras.Model, temperature: float, offset: float = 0.0) -> Iterator[keras.Model]:
    """Calibrate the probabilities of `network` inside the block, also those of a file it is saved to.

    The temperature divides the last layer's kernel and bias and the offset joins the bias, so the network holds
    stock layers only and any Keras reads it without this project. Copying a deep network would take a while.
    """
    output = network.get_layer(OUTPUT_LAYER)
    kernel, bias = output.get_weights()
    output.set_weights([kernel / temperature, bias / temperature + offset])
    try:
        yield network
    finally:
        output.set_weights([kernel, bias])
