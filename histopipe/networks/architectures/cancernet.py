"""CancerNet: stacked separable convolutions for 48-px patches (Rosebrock 2019, PyImageSearch)."""

from __future__ import annotations

import keras
from keras import layers

from histopipe.networks.architectures import register
from histopipe.networks.architectures.blocks import patch_input, probability, rescale


@register("cancernet")
def cancernet(image_size: int = 48, dropout: float = 0.25, head_dropout: float = 0.5) -> keras.Model:
    """Build three blocks of 1, 2 and 3 separable convolutions, then a 256-unit head.

    Input:  uint8 (batch, height, width, 3), any height and width; resized to `image_size` inside.
    Output: probability of the positive class, (batch, 1), float32.
    """
    inputs = patch_input()
    x = rescale(inputs, image_size)
    for filters, depth in ((32, 1), (64, 2), (128, 3)):
        x = separable_block(x, filters, depth, dropout)
    x = layers.Dense(256, activation="relu")(layers.Flatten()(x))
    x = layers.Dropout(head_dropout)(layers.BatchNormalization()(x))
    return keras.Model(inputs, probability(x), name="cancernet")


def separable_block(x: keras.KerasTensor, filters: int, depth: int, dropout: float) -> keras.KerasTensor:
    """Apply a separable 3x3 convolution, ReLU and batch norm `depth` times, then halve the size and drop out."""
    for _ in range(depth):
        x = layers.SeparableConv2D(filters, 3, padding="same", activation="relu")(x)
        x = layers.BatchNormalization()(x)
    return layers.Dropout(dropout)(layers.MaxPooling2D(2)(x))
