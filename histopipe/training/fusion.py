"""Batch norms by TensorFlow's fused kernel while a network trains; the saved model holds Keras' own layers.

On the TensorFlow backend Keras computes a batch norm from a dozen elementwise operations, each a pass over memory; one
kernel gives the same numbers. Elsewhere, and where the kernel doesn't fit (other axes, masks, no scale or offset), the
layer does what Keras' own does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras


class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Keras' layer, with its training step in one kernel."""

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalise by the batch's statistics and move the averages, or use the averages outside training."""
        if not (training and self.trainable and self._fits(inputs, mask)):
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs, tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta), epsilon=self.epsilon
        )
        count = tf.cast(tf.size(inputs) // inputs.shape[-1], "float32")
        variance *= (count - 1) / count  # the kernel's is that of a sample, Keras keeps that of the batch
        for average, now in ((self.moving_mean, mean), (self.moving_variance, variance)):
            average.assign(tf.convert_to_tensor(average) * self.momentum + now * (1.0 - self.momentum))
        return keras.ops.cast(outputs, self.compute_dtype)

    def _fits(self, inputs: Any, mask: Any) -> bool:
        last = self.axis in (-1, len(inputs.shape) - 1)
        plain = not (self.renorm or self.synchronized) and self.scale and self.center
        return mask is None and last and plain and len(inputs.shape) == 4


@contextmanager
def fused_batch_norms(network: keras.Model) -> Iterator[None]:
    """Inside, the network's batch norms train by the fused kernel; weights and names stay theirs."""
    norms = [layer for layer in network._flatten_layers() if type(layer) is keras.layers.BatchNormalization]
    if keras.backend.backend() == "tensorflow":
        for norm in norms:
            norm.__class__ = FusedBatchNormalization
    try:
        yield
    finally:
        for norm in norms:
            norm.__class__ = keras.layers.BatchNormalization
