"""The tutorials' way of reading and training: CancerNet of Rosebrock 2019, from Keras' directory generator."""

from __future__ import annotations

from typing import Any

EPOCHS = 40
FLOW = {"class_mode": "categorical", "target_size": (48, 48), "color_mode": "rgb", "batch_size": 32}


def augmenting() -> Any:
    """Create the generator of its training patches."""
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    return ImageDataGenerator(
        rescale=1 / 255.0,
        rotation_range=20,
        zoom_range=0.05,
        width_shift_range=0.1,
        height_shift_range=0.1,
        shear_range=0.05,
        horizontal_flip=True,
        vertical_flip=True,
        fill_mode="nearest",
    )


def scaling() -> Any:
    """Create the generator of patches that are not augmented."""
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    return ImageDataGenerator(rescale=1 / 255.0)


def tutorial_network() -> Any:
    """Build its CancerNet with two softmax units, compiled as in the tutorial."""
    import keras
    from keras import layers

    from histopipe.networks.architectures.cancernet import separable_block

    inputs = x = keras.Input((48, 48, 3))
    for filters, depth in ((32, 1), (64, 2), (128, 3)):
        x = separable_block(x, filters, depth, 0.25)
    x = layers.BatchNormalization()(layers.Dense(256, activation="relu")(layers.Flatten()(x)))
    network = keras.Model(inputs, layers.Dense(2, activation="softmax")(layers.Dropout(0.5)(x)))
    rate = keras.optimizers.schedules.InverseTimeDecay(0.01, decay_steps=1, decay_rate=0.01 / EPOCHS)
    network.compile(keras.optimizers.Adagrad(rate), "binary_crossentropy", metrics=["accuracy"], jit_compile=False)
    return network
