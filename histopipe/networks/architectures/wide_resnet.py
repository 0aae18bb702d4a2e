"""Wide residual networks WRN-d-k (Zagoruyko & Komodakis 2016, arXiv:1605.07146), with a head of 20 units.

The head is that of the IDC repository which reports an accuracy "over .85"; the paper's ends in one softmax layer.
"""

from __future__ import annotations

import keras
from keras import layers

from histopipe.core.errors import ArchitectureError
from histopipe.networks.architectures import register
from histopipe.networks.architectures.blocks import patch_input, probability, rescale

HEAD_UNITS = 20
STEM_FILTERS = 16
EPSILON = 1e-5  # of the batch norms, with their momentum, as in the paper's Torch
MOMENTUM = 0.9
DEEPEST, WIDEST = 1000, 64  # beyond the paper's largest, WRN-40-10 and WRN-16-10, by far; larger is a slip


@register("wide_resnet")
def wide_resnet(
    image_size: int = 48, depth: int = 16, width: int = 4, dropout: float = 0.0, weight_decay: float = 5e-4
) -> keras.Model:
    """Build three groups of (depth - 4) / 6 basic blocks with 16, 32 and 64 times `width` filters.

    Input:  uint8 (batch, height, width, 3), any height and width; resized to `image_size` inside.
    Output: probability of the positive class, (batch, 1), float32.

    Args:
        image_size: side in pixels.
        depth: convolutions on the longest path, 6n + 4.
        width: the paper's k.
        dropout: share, between the two convolutions of a block; the paper has .3 where it has any.
        weight_decay: the paper's; on all kernels, while Torch decayed the batch norms too.

    Raises:
        ArchitectureError: there is no network of that depth or width.
    """
    require_depth_and_width(depth, width)
    l2 = weight_decay / 2  # a decay of w is the gradient of w²/2, and Keras' penalty is w²
    inputs = patch_input()
    x = convolution(rescale(inputs, image_size), STEM_FILTERS, l2)
    for filters, stride in ((16, 1), (32, 2), (64, 2)):
        x = group(x, filters * width, (depth - 4) // 6, stride, dropout, l2)
    x = layers.GlobalAveragePooling2D()(activation(x))
    x = layers.Dense(HEAD_UNITS, activation="relu", kernel_initializer="he_normal", kernel_regularizer=penalty(l2))(x)
    return keras.Model(inputs, probability(x, l2), name="wide_resnet")


def require_depth_and_width(depth: int, width: int) -> None:
    """Check that there is a WRN of that depth and width.

    Raises:
        ArchitectureError: there is no such WRN, or it would fill any machine.
    """
    if depth not in range(10, DEEPEST, 6):
        raise ArchitectureError(f"wide_resnet: model.depth {depth} is not 6n + 4: try 10, 16, 22, 28 or 40")
    if not 1 <= width <= WIDEST:
        raise ArchitectureError(f"wide_resnet: model.width {width} is not a factor from 1 to {WIDEST}")


def group(x: keras.KerasTensor, filters: int, depth: int, stride: int, dropout: float, l2: float) -> keras.KerasTensor:
    """Apply `depth` basic blocks, the first of them with the stride."""
    for number in range(depth):
        x = basic_block(x, filters, stride if number == 0 else 1, dropout, l2)
    return x


def basic_block(x: keras.KerasTensor, filters: int, stride: int, dropout: float, l2: float) -> keras.KerasTensor:
    """Add two 3x3 convolutions, each after batch norm and ReLU, to their input.

    Where the number of channels changes, the shortcut is a 1x1 convolution of the input after its batch norm and
    ReLU, as in the authors' code.
    """
    activated = activation(x)
    inner = activation(convolution(activated, filters, l2, stride))
    inner = layers.Dropout(dropout)(inner) if dropout else inner
    inner = convolution(inner, filters, l2)
    shortcut = x if x.shape[-1] == filters else convolution(activated, filters, l2, stride, size=1)
    return layers.Add()([inner, shortcut])


def activation(x: keras.KerasTensor) -> keras.KerasTensor:
    """Apply batch norm and ReLU."""
    return layers.ReLU()(layers.BatchNormalization(epsilon=EPSILON, momentum=MOMENTUM)(x))


def convolution(x: keras.KerasTensor, filters: int, l2: float, stride: int = 1, size: int = 3) -> keras.KerasTensor:
    """Apply a convolution without bias, from He-normal weights."""
    layer = layers.Conv2D(
        filters,
        size,
        strides=stride,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        kernel_regularizer=penalty(l2),
    )
    return layer(x)


def penalty(l2: float) -> keras.regularizers.Regularizer:
    """Return an L2 penalty on a kernel."""
    return keras.regularizers.L2(l2)
