"""Transfer learning: any backbone under a small head, trained whole or the head alone."""

from __future__ import annotations

import keras
from keras import layers

from histopipe.core.errors import ArchitectureError
from histopipe.networks.architectures import register
from histopipe.networks.architectures.backbones import build_backbone, prepare_for
from histopipe.networks.architectures.blocks import patch_input, probability

TRAINABLE = ("all", "head")


@register("transfer")
def transfer(
    image_size: int = 224, backbone: str = "squeezenet", dropout: float = 0.5, trainable: str = "all"
) -> keras.Model:
    """Put the head of the BreakHis tutorial on any backbone.

    Input:  uint8 (batch, height, width, 3), any height and width; resized to `image_size` inside.
    Output: probability of the positive class, (batch, 1), float32.

    Args:
        image_size: side in pixels.
        backbone: one of `list_backbones()`.
        dropout: share of pooled features left out.
        trainable: `all`, or `head`: the backbone stays as it was loaded, batch norms included.
    """
    if trainable not in TRAINABLE:
        raise ArchitectureError(f"transfer: `trainable` is all or head, not {trainable!r}")
    return under_head(backbone, image_size, dropout, name="transfer", frozen=trainable == "head")


def under_head(backbone: str, image_size: int, dropout: float, name: str, frozen: bool = False) -> keras.Model:
    """Put global average pooling, dropout, batch norm and one unit on a backbone."""
    inputs = patch_input()
    extractor = build_backbone(backbone, image_size)
    extractor.trainable = not frozen
    x = layers.GlobalAveragePooling2D()(extractor(prepare_for(inputs, image_size, backbone)))
    x = layers.BatchNormalization()(layers.Dropout(dropout)(x))
    return keras.Model(inputs, probability(x), name=name)
