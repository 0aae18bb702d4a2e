"""SqueezeNet v1.1 without its classifier (Iandola et al. 2016, arXiv:1602.07360, and the authors' smaller v1.1).

Layers are those of the published Keras file and in its order, so that it loads; where it has fire2/squeeze1x1, Keras
3 asks for a name without slash: fire2_squeeze1x1.
"""

from __future__ import annotations

import keras
from keras import layers

POOLED_AFTER = {3, 5}  # fire modules, besides the first convolution
FIRES = {2: (16, 64), 3: (16, 64), 4: (32, 128), 5: (32, 128), 6: (48, 192), 7: (48, 192), 8: (64, 256), 9: (64, 256)}


def squeezenet(image_size: int) -> keras.Model:
    """Build eight fire modules on a strided convolution; 722,496 weights.

    Input:  (batch, image_size, image_size, 3), from 16 pixels a side.
    Output: (batch, about image_size / 16, the same, 512).
    """
    inputs = keras.Input((image_size, image_size, 3))
    x = layers.Conv2D(64, 3, strides=2, activation="relu", name="conv1")(inputs)
    x = layers.MaxPooling2D(3, strides=2, name="pool1")(x)
    for number, (squeezed, expanded) in FIRES.items():
        x = fire(x, f"fire{number}", squeezed, expanded)
        if number in POOLED_AFTER:
            x = layers.MaxPooling2D(3, strides=2, name=f"pool{number}")(x)
    return keras.Model(inputs, x)


def fire(x: keras.KerasTensor, name: str, squeezed: int, expanded: int) -> keras.KerasTensor:
    """Reduce to few channels by 1x1, then expand by 1x1 and by 3x3 in parallel; 2 * `expanded` channels come out."""
    x = layers.Conv2D(squeezed, 1, activation="relu", name=f"{name}_squeeze1x1")(x)
    narrow = layers.Conv2D(expanded, 1, activation="relu", name=f"{name}_expand1x1")(x)
    wide = layers.Conv2D(expanded, 3, padding="same", activation="relu", name=f"{name}_expand3x3")(x)
    return layers.Concatenate(name=f"{name}_concat")([narrow, wide])
