"""The networks of `keras.applications` as backbones.

Some of them scale their pixels by their own layers, Rescaling and Normalization. Those are left out - by the
constructor's own switch (EfficientNetV2, MobileNetV3, ConvNeXt), else by rebuilding the graph without them
(EfficientNet) - and their arithmetic is done by `prepare`: such layers make the batch norms behind them run in training
mode when a network is called or exported (Keras 3.15).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import keras
from keras import layers

from histopipe.networks.architectures.backbones.preparation import Preparation

Constructor = Callable[..., keras.Model]

_SCALING = (layers.Rescaling, layers.Normalization)
_PREPARATIONS = (
    (r"vgg\d+|resnet\d+", Preparation.CAFFE),
    (r"densenet\d+|convnext\w+", Preparation.TORCH),
    # B0 to B7: its weights file holds ImageNet's mean and variances for the Normalization layer, and a further layer
    # corrects these to standard deviations; together they are the same arithmetic
    (r"efficientnetb\d|efficientnetv2b\d", Preparation.TORCH),
    (r"efficientnetv2[sml]", Preparation.HALVED),
)


@cache
def constructors() -> dict[str, Constructor]:
    """Return the constructors of `keras.applications` by their names in lower case."""
    named = {name: getattr(keras.applications, name) for name in dir(keras.applications)}
    return {name.lower(): value for name, value in named.items() if name[0].isupper() and callable(value)}


def preparation_of(name: str) -> Preparation:
    """Return the preparation of pixels that a network expects; most of them take -1 to 1."""
    return next((kind for pattern, kind in _PREPARATIONS if re.fullmatch(pattern, name)), Preparation.SYMMETRIC)


def build_published(name: str, image_size: int) -> keras.Model:
    """Build a network without its classifier and its own scaling, with random weights.

    Raises:
        ValueError: the image is too small for it.
    """
    return _without_scaling(build_original(name, weights=None, input_shape=(image_size, image_size, 3)))


def build_original(name: str, **options: Any) -> keras.Model:
    """Build a network as `keras.applications` does and published files fit it, without its classifier.

    Args:
        name: name of the network, in lower case.
        options: arguments of its constructor, such as `weights`.
    """
    constructor = constructors()[name]
    if "include_preprocessing" in inspect.signature(constructor).parameters:
        options["include_preprocessing"] = False
    return constructor(include_top=False, **options)


def load_published(backbone: keras.Model, name: str, file: Path) -> None:
    """Load a published file into the network as published, and from there into the one without scaling.

    Raises:
        ValueError: the file doesn't fit.
    """
    model = build_original(name, weights=None)
    model.load_weights(file)
    copy_weights(model, backbone)


def copy_weights(model: keras.Model, backbone: keras.Model) -> None:
    """Copy the weights of a network as published into its backbone: the same layers in the same order."""
    for source, target in zip(_weighted(model), _weighted(backbone), strict=True):
        target.set_weights(source.get_weights())


def _weighted(model: keras.Model) -> list[keras.Layer]:
    return [layer for layer in model.layers if layer.weights and not isinstance(layer, _SCALING)]


def _without_scaling(model: keras.Model) -> keras.Model:
    if not any(isinstance(layer, _SCALING) for layer in model.layers):
        return model
    return keras.models.clone_model(
        model,
        call_function=lambda layer, x, *rest, **options: (
            x if isinstance(layer, _SCALING) else layer(x, *rest, **options)
        ),
    )
