"""ResNet of the malaria tutorial (Rosebrock 2018, PyImageSearch).

"Deep learning and medical image analysis with Keras" trains a pre-activation bottleneck network (He et al. 2016,
"Identity mappings in deep residual networks", arXiv:1603.05027). Its published file of 17.7 MB holds 2.2 million
weights and as many momenta.
"""

from __future__ import annotations

import keras
from keras import layers

from histopipe.networks.architectures import register
from histopipe.networks.architectures.blocks import patch_input, probability, rescale

STEM_FILTERS = 64
STAGES = ((128, 3), (256, 4), (512, 6))  # filters and residual modules
EPSILON = 2e-5
MOMENTUM = 0.9  # of the batch norms' moving averages


@register("resnet")
def resnet(image_size: int = 64, l2: float = 5e-4, module_l2: float = 1e-4) -> keras.Model:
    """Build a 5x5 stem that halves the size, then stages of 3, 4 and 6 bottleneck modules.

    Input:  uint8 (batch, height, width, 3), any height and width; resized to `image_size` inside, 32 or more.
    Output: probability of the positive class, (batch, 1), float32.

    Args:
        image_size: side in pixels. The last average is over all that is left of the image, at 64 px the tutorial's 8x8.
        l2: penalty on the kernels of the stem and of the last layer.
        module_l2: penalty on the kernels of the residual modules. The tutorial sets 5e-4, but its code doesn't pass it
            to the modules, which keep their default of 1e-4.
    """
    inputs = patch_input()
    x = stem(rescale(inputs, image_size), l2)
    for number, (filters, depth) in enumerate(STAGES):
        x = residual_module(x, filters, module_l2, stride=1 if number == 0 else 2, reduces=True)
        for _ in range(depth - 1):
            x = residual_module(x, filters, module_l2)
    x = layers.GlobalAveragePooling2D()(activation(x))
    return keras.Model(inputs, probability(x, l2), name="resnet")


def stem(x: keras.KerasTensor, l2: float) -> keras.KerasTensor:
    """Apply batch norm to the pixels, a 5x5 convolution, and 3x3 max pooling with stride 2."""
    x = layers.BatchNormalization(epsilon=EPSILON, momentum=MOMENTUM)(x)
    x = activation(convolution(x, STEM_FILTERS, 5, l2))
    return layers.MaxPooling2D(3, strides=2)(layers.ZeroPadding2D(1)(x))


def residual_module(
    x: keras.KerasTensor, filters: int, l2: float, stride: int = 1, reduces: bool = False
) -> keras.KerasTensor:
    """Add convolutions 1x1, 3x3 (with the stride) and 1x1, each after batch norm and ReLU, to their input.

    Args:
        x: (batch, height, width, channels); `filters` channels unless it `reduces`.
        filters: filters of the last convolution; the others have a quarter of them.
        l2: penalty on kernels.
        stride: stride of the 3x3 convolution.
        reduces: whether the shortcut is a 1x1 convolution of the input after its batch norm and ReLU.
    """
    activated = activation(x)
    inner = convolution(activated, filters // 4, 1, l2)
    inner = convolution(activation(inner), filters // 4, 3, l2, stride)
    inner = convolution(activation(inner), filters, 1, l2)
    shortcut = convolution(activated, filters, 1, l2, stride) if reduces else x
    return layers.Add()([inner, shortcut])


def activation(x: keras.KerasTensor) -> keras.KerasTensor:
    """Apply batch norm and ReLU."""
    return layers.ReLU()(layers.BatchNormalization(epsilon=EPSILON, momentum=MOMENTUM)(x))


def convolution(x: keras.KerasTensor, filters: int, size: int, l2: float, stride: int = 1) -> keras.KerasTensor:
    """Apply a convolution without bias, which the batch norm after it would remove again."""
    penalty = keras.regularizers.L2(l2)
    layer = layers.Conv2D(filters, size, strides=stride, padding="same", use_bias=False, kernel_regularizer=penalty)
    return layer(x)
