"""Histonet: our compact residual network for patches of about 50 px.

Residual blocks after He et al. 2016 with the shortcut's average pooling of ResNet-D (He et al. 2019, "Bag of tricks").
One convolution sees the patch at full resolution, since nuclei are three or four pixels wide; all else works at half of
it and less, where a network for so small an image spends its time best.
"""

from __future__ import annotations

import keras
from keras import layers

from histopipe.networks.architectures import register
from histopipe.networks.architectures.blocks import patch_input, probability, rescale


@register("histonet")
def histonet(
    image_size: int = 48,
    stem: int = 32,
    width: int = 32,
    stages: int = 4,
    blocks: int = 1,
    dropout: float = 0.1,
    pooling: str = "average",
) -> keras.Model:
    """Build a stem, stages of residual blocks that halve the size and double the width, and a linear head.

    Args:
        image_size: side in pixels that patches are resized to.
        stem: channels of the first convolution.
        width: channels of the first stage.
        stages: how often the size is halved.
        blocks: residual blocks in each stage.
        dropout: share of pooled features left out in training.
        pooling: over the last maps: `average`, for what is all over the patch, or `average_and_max`, also for what is
            in one spot: a parasite in a cell would be lost in the mean, and take the network long to find.

    Input:  uint8 (batch, height, width, 3), any height and width.
    Output: probability of the positive class, (batch, 1), float32.
    """
    inputs = patch_input()
    x = convolution(rescale(inputs, image_size), stem)
    for stage in range(stages):
        for block in range(blocks):
            x = residual_block(x, width * 2**stage, stride=2 if block == 0 else 1)
    return keras.Model(inputs, probability(layers.Dropout(dropout)(pooled(x, pooling))), name="histonet")


def pooled(x: keras.KerasTensor, pooling: str) -> keras.KerasTensor:
    """Pool the features of the whole patch: (batch, channels), or (batch, 2 * channels) with maxima after the means.

    Raises:
        ValueError: `pooling` is neither `average` nor `average_and_max`.
    """
    average = layers.GlobalAveragePooling2D()(x)
    if pooling == "average":
        return average
    if pooling == "average_and_max":
        return layers.Concatenate()([average, layers.GlobalMaxPooling2D()(x)])
    raise ValueError(f"pooling is {pooling!r}: average or average_and_max is expected")


def residual_block(x: keras.KerasTensor, channels: int, stride: int) -> keras.KerasTensor:
    """Add two 3x3 convolutions to a shortcut; starts as the shortcut alone (last scale 0, Goyal et al. 2017)."""
    branch = convolution(x, channels, stride=stride)
    branch = convolution(branch, channels, activated=False, scale="zeros")
    if stride > 1:
        x = layers.AveragePooling2D(stride, padding="same")(x)
    if x.shape[-1] != channels:
        x = convolution(x, channels, size=1, activated=False)
    return layers.ReLU()(layers.Add()([x, branch]))


def convolution(
    x: keras.KerasTensor, channels: int, size: int = 3, stride: int = 1, activated: bool = True, scale: str = "ones"
) -> keras.KerasTensor:
    """Apply a convolution without bias, batch norm, and ReLU if `activated`."""
    x = layers.Conv2D(channels, size, strides=stride, padding="same", use_bias=False, kernel_initializer="he_normal")(x)
    x = layers.BatchNormalization(gamma_initializer=scale)(x)
    return layers.ReLU()(x) if activated else x
