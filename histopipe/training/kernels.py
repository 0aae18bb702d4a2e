"""Faster TensorFlow kernels while a network trains; the saved model has Keras' own layers.

Keras computes a batch norm from a dozen elementwise operations, each a pass over memory; one fused kernel gives the
same numbers. For dropout it draws a random float per value, which takes a CPU longer than some convolutions do. Where a
kernel doesn't fit (other backends, axes, masks, no scale or offset), the layer computes as Keras' own does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from histopipe.networks.backend import backend_name, is_on_tensorflow_cpu

_INTEGERS = 2**16


class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Keras' layer, with its training step in one kernel."""

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalise by the batch's statistics and update the averages; outside training, use the averages."""
        if not (training and self.trainable and self._fits(inputs, mask)):
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs, tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta), epsilon=self.epsilon
        )
        count = tf.cast(tf.size(inputs) // inputs.shape[-1], "float32")
        variance *= (count - 1) / count  # the kernel computes the sample's variance, Keras keeps the batch's
        for average, now in ((self.moving_mean, mean), (self.moving_variance, variance)):
            average.assign(tf.convert_to_tensor(average) * self.momentum + now * (1.0 - self.momentum))
        return keras.ops.cast(outputs, self.compute_dtype)

    def _fits(self, inputs: Any, mask: Any) -> bool:
        last = self.axis in (-1, len(inputs.shape) - 1)
        plain = not (self.renorm or self.synchronized) and self.scale and self.center
        return mask is None and last and plain and len(inputs.shape) == 4


class IntegerDropout(keras.layers.Dropout):
    """Keras' layer, with 16 random bits per value in place of a random float: half the random numbers.

    The share that is dropped is the rate rounded to 1/65,536, and the rest is scaled accordingly.
    """

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Drop values in training."""
        below = round(_INTEGERS * self.rate)
        if not training or self.noise_shape is not None or not 0 < below < _INTEGERS:
            return super().call(inputs, training=training)
        import tensorflow as tf

        inputs = tf.convert_to_tensor(inputs)
        count, seed = tf.size(inputs), tf.cast(self.seed_generator.next(), tf.int32)
        words = tf.random.stateless_uniform([(count + 1) // 2], seed, None, None, tf.uint32)
        drawn = tf.reshape(tf.reshape(tf.bitcast(words, tf.uint16), [-1])[:count], tf.shape(inputs))
        kept = tf.cast(drawn >= tf.constant(below, tf.uint16), inputs.dtype)
        return inputs * (kept * (_INTEGERS / (_INTEGERS - below)))


@contextmanager
def quicker_kernels(network: keras.Model) -> Iterator[None]:
    """Let the network's layers train by faster kernels inside the block; their weights and names don't change."""
    quicker: dict[type, type] = {}
    if backend_name() == "tensorflow":
        quicker[keras.layers.BatchNormalization] = FusedBatchNormalization
    if is_on_tensorflow_cpu():
        quicker[keras.layers.Dropout] = IntegerDropout
    replaced = [(layer, type(layer)) for layer in network._flatten_layers() if type(layer) in quicker]
    for layer, kind in replaced:
        layer.__class__ = quicker[kind]
    try:
        yield
    finally:
        for layer, kind in replaced:
            layer.__class__ = kind
