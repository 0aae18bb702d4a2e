"""AlexNet's convolutions (Krizhevsky, Sutskever & Hinton 2012) in one tower.

Widths are those of the 2012 paper with the halves of both GPUs joined (96, 256, 384, 384, 256), so every convolution
sees all channels of its predecessor; without local response normalisation, which later work found to do nothing
(Simonyan & Zisserman 2015, section 4.1). Padded throughout, so that it also works on patches of 48 pixels.
"""

from __future__ import annotations

import keras
from keras import layers

CONVOLUTIONS = ((96, 11, 4), (256, 5, 1), (384, 3, 1), (384, 3, 1), (256, 3, 1))  # filters, side, stride
POOLED_AFTER = {1, 2, 5}


def alexnet(image_size: int) -> keras.Model:
    """Build five convolutions and three overlapping poolings; 3,747,200 weights.

    Input:  (batch, image_size, image_size, 3).
    Output: (batch, about image_size / 32, the same, 256).
    """
    inputs = x = keras.Input((image_size, image_size, 3))
    for number, (filters, side, stride) in enumerate(CONVOLUTIONS, start=1):
        x = layers.Conv2D(filters, side, strides=stride, padding="same", activation="relu", name=f"conv{number}")(x)
        if number in POOLED_AFTER:
            x = layers.MaxPooling2D(3, strides=2, padding="same", name=f"pool{number}")(x)
    return keras.Model(inputs, x)
