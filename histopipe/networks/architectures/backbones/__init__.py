"""Feature extractors by name: SqueezeNet, AlexNet and all of `keras.applications`, without their classifiers.

A backbone is a model from prepared pixels to a map of features. The preparation that its published weights expect
(`prepare_for`) is done by plain operations, so that the whole network takes raw patches and has no preprocessing layer.
"""

from __future__ import annotations

import re

import keras

from histopipe.core.errors import ArchitectureError, did_you_mean
from histopipe.networks.architectures.backbones import published
from histopipe.networks.architectures.backbones.alexnet import alexnet
from histopipe.networks.architectures.backbones.preparation import Preparation, prepare
from histopipe.networks.architectures.backbones.squeezenet import squeezenet

BACKBONE_LAYER = "backbone"  # the extractor's name inside a network

_OWN = {"alexnet": alexnet, "squeezenet": squeezenet}
_LATE = 3  # resolutions

# Late layers worth trying as features, early ones first; other backbones: the last layer of each late resolution.
_CANDIDATES = {
    "alexnet": ("pool2", "conv3", "conv4", "pool5"),
    "densenet121": ("pool3_pool", "pool4_pool", "relu"),
    "densenet169": ("pool3_pool", "pool4_pool", "relu"),
    "densenet201": ("pool3_pool", "pool4_pool", "relu"),
    "resnet50": ("conv3_block4_out", "conv4_block6_out", "conv5_block3_out"),
    "squeezenet": ("fire5_concat", "fire6_concat", "fire7_concat", "fire8_concat", "fire9_concat"),
    "vgg16": ("block3_pool", "block4_pool", "block5_pool"),
    "vgg19": ("block3_pool", "block4_pool", "block5_pool"),
    "xception": ("block4_pool", "block13_pool", "block14_sepconv1_act", "block14_sepconv2_act"),
}


def list_backbones() -> list[str]:
    """List the names of all backbones, in lower case."""
    return sorted([*_OWN, *published.constructors()])


def require_backbone(name: str) -> str:
    """Return a backbone's name as `list_backbones` spells it, whatever its case.

    Raises:
        ArchitectureError: there is no such backbone; the message suggests the nearest name.
    """
    lower, names = str(name).lower(), list_backbones()
    if lower not in names:
        raise ArchitectureError(f"unknown backbone {str(name)!r}; {did_you_mean(lower, names)}")
    return lower


def build_backbone(name: str, image_size: int) -> keras.Model:
    """Build a backbone, with random weights.

    Args:
        name: one of `list_backbones()`, in any case.
        image_size: side of its input images, in pixels.

    Returns:
        A model called `backbone` from prepared pixels (batch, image_size, image_size, 3) to features (batch, height,
        width, channels).

    Raises:
        ArchitectureError: there is no such backbone.
        ValueError: the image is too small for it.
    """
    lower = require_backbone(name)
    model = _OWN[lower](image_size) if lower in _OWN else published.build_published(lower, image_size)
    return keras.Model(model.input, model.output, name=BACKBONE_LAYER)


def prepare_for(patches: keras.KerasTensor, image_size: int, name: str) -> keras.KerasTensor:
    """Prepare raw patches as a backbone's published weights expect them: (batch, image_size, image_size, 3)."""
    lower = require_backbone(name)
    # the Caffe model zoo's networks see BGR less ImageNet's mean
    preparation_of = Preparation.CAFFE if lower in _OWN else published.preparation_of(lower)
    return prepare(patches, image_size, preparation_of)


def candidate_layers(name: str, backbone: keras.Model) -> tuple[str, ...]:
    """List the names of a backbone's late layers that may serve as features, early ones first."""
    listed = _CANDIDATES.get(require_backbone(name))
    return listed or _last_of_each_resolution(backbone)[-_LATE:]


def _last_of_each_resolution(backbone: keras.Model) -> tuple[str, ...]:
    """List the last layer of each resolution; layers with a generated name are left out.

    Generated names differ from process to process.
    """
    last: dict[int, str] = {}
    smallest = backbone.output.shape[1]  # below it are squeezed channels, not maps
    for layer in backbone.layers[1:]:
        shape: tuple[int, ...] = getattr(layer.output, "shape", ())
        if len(shape) == 4 and shape[1] >= smallest and not _is_auxiliary(layer):
            last[shape[1]] = layer.name
    return tuple(last[side] for side in sorted(last, reverse=True))


def _is_auxiliary(layer: keras.Layer) -> bool:
    return isinstance(layer, keras.layers.ZeroPadding2D | keras.layers.Cropping2D) or has_generated_name(layer)


def has_generated_name(layer: keras.Layer) -> bool:
    """Return whether Keras named the layer, by its type and a process-wide number such as `conv2d_7`."""
    kind = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[a-z0-9])(?=[A-Z][a-z])", "_", type(layer).__name__).lower()
    return re.fullmatch(rf"{kind}(_\d+)?", layer.name) is not None
