"""A linear classifier on the features of a frozen backbone (Rajaraman et al. 2018, PeerJ 6:e4568).

Which layer the features come from is decided by validation; the classifier is fitted by scikit-learn and folded into
the last layer (`histopipe.training.features`), so that the network is saved, evaluated and served like any other.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers

from histopipe.core.errors import ArchitectureError
from histopipe.networks.architectures import register
from histopipe.networks.architectures.backbones import BACKBONE_LAYER, build_backbone, prepare_for
from histopipe.networks.architectures.blocks import patch_input, probability


@register("features")
def features(image_size: int = 224, backbone: str = "squeezenet", layer: str = "") -> keras.Model:
    """Build a frozen backbone up to `layer`, global average pooling and one unit.

    Input:  uint8 (batch, height, width, 3), any height and width; resized to `image_size` inside.
    Output: probability of the positive class, (batch, 1), float32.

    Args:
        image_size: side in pixels.
        backbone: one of `list_backbones()`.
        layer: name of the backbone's layer whose output is the features; its last layer where empty.
    """
    return build_classifier(build_backbone(backbone, image_size), backbone, image_size, layer)


def build_classifier(extractor: keras.Model, backbone: str, image_size: int, layer: str) -> keras.Model:
    """Build the network whose last layer is the classifier; it shares the weights of `extractor`, which is frozen."""
    inputs = patch_input()
    cut = keras.Model(extractor.input, [_output(extractor, layer)], name=BACKBONE_LAYER)
    cut.trainable = False
    (maps,) = _as_list(cut(prepare_for(inputs, image_size, backbone)))
    return keras.Model(inputs, probability(_pooled(maps)), name="features")


def build_pooling(extractor: keras.Model, backbone: str, image_size: int, names: Sequence[str]) -> keras.Model:
    """Build a network from raw patches to the pooled features of several layers, (batch, channels) each."""
    inputs = patch_input()
    cut = keras.Model(extractor.input, [_output(extractor, name) for name in names], name=BACKBONE_LAYER)
    cut.trainable = False
    maps = _as_list(cut(prepare_for(inputs, image_size, backbone)))
    return keras.Model(inputs, [_pooled(layer_maps) for layer_maps in maps])


def _pooled(maps: keras.KerasTensor) -> keras.KerasTensor:
    return layers.GlobalAveragePooling2D(dtype="float32")(maps)


def _as_list(outputs: keras.KerasTensor | list[keras.KerasTensor]) -> list[keras.KerasTensor]:
    return outputs if isinstance(outputs, list) else [outputs]


def _output(extractor: keras.Model, layer: str) -> keras.KerasTensor:
    if not layer:
        return extractor.output
    named = {candidate.name: candidate for candidate in extractor.layers[1:]}
    if layer not in named or len(named[layer].output.shape) != 4:
        maps = [name for name, candidate in named.items() if len(getattr(candidate.output, "shape", ())) == 4]
        names = ", ".join(maps[-8:])
        raise ArchitectureError(f"the backbone has no layer {layer!r} with a map of features; it has {names}")
    return named[layer].output
