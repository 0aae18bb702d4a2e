"""Pieces that architectures share: the input, the scaling inside the model, the output."""

from __future__ import annotations

import keras
from keras import layers, ops

OUTPUT_LAYER = "logit"  # the last layer with weights; calibration folds the temperature into it


def patch_input() -> keras.KerasTensor:
    """Return the input for raw patches: uint8 (batch, height, width, 3), any height and width."""
    return keras.Input((None, None, 3), dtype="uint8", name="patch")


def rescale(patches: keras.KerasTensor, image_size: int) -> keras.KerasTensor:
    """Resize to `image_size` pixels a side (bilinear) and scale to [0, 1], as part of the model.

    Plain operations rather than preprocessing layers: those run the batch norms behind them in training mode when
    a model is called or exported (Keras 3.15).
    """
    scaled = ops.cast(patches, "float32") / 255.0
    return ops.image.resize(scaled, (image_size, image_size), interpolation="bilinear")


def probability(features: keras.KerasTensor, l2: float = 0.0) -> keras.KerasTensor:
    """Return the probability of the positive class, (batch, 1), float32: one unit before a sigmoid.

    Args:
        features: (batch, features).
        l2: penalty on the unit's weights.
    """
    penalty = keras.regularizers.L2(l2) if l2 else None
    logit = layers.Dense(1, name=OUTPUT_LAYER, dtype="float32", kernel_regularizer=penalty)(features)
    return layers.Activation("sigmoid", name="probability", dtype="float32")(logit)
