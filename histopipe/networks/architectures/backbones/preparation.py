"""The preparation of pixels that published weights expect, as plain operations inside the network."""

from __future__ import annotations

from enum import Enum

import keras
import numpy as np
from keras import ops

IMAGENET_MEAN_BGR = (103.939, 116.779, 123.68)  # of pixels from 0 to 255, as VGG's authors published it
IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB, of pixels from 0 to 1, as torchvision defines it
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


class Preparation(Enum):
    """The ways in which published networks prepare their pixels."""

    CAFFE = "BGR less ImageNet's mean"
    TORCH = "each channel less ImageNet's mean, over its standard deviation"
    SYMMETRIC = "from -1 to 1"
    HALVED = "over 128, less 1"  # EfficientNetV2 S, M and L


def prepare(patches: keras.KerasTensor, image_size: int, preparation: Preparation) -> keras.KerasTensor:
    """Resize raw patches (bilinear) and prepare their pixels, (batch, image_size, image_size, 3), float32."""
    pixels = ops.image.resize(ops.cast(patches, "float32"), (image_size, image_size), interpolation="bilinear")
    if preparation is Preparation.CAFFE:
        return ops.flip(pixels, axis=-1) - np.asarray(IMAGENET_MEAN_BGR, "float32")
    if preparation is Preparation.TORCH:
        return (pixels / 255.0 - np.asarray(IMAGENET_MEAN, "float32")) / np.asarray(IMAGENET_DEVIATION, "float32")
    return pixels / (127.5 if preparation is Preparation.SYMMETRIC else 128.0) - 1.0
