"""DenseNet201 (Huang et al. 2017, arXiv:1608.06993) as the BreakHis tutorial fine-tunes it."""

from __future__ import annotations

import keras

from histopipe.networks.architectures import register
from histopipe.networks.architectures.transfer import under_head


@register("densenet201", backbone="densenet201")
def densenet201(image_size: int = 224, dropout: float = 0.5) -> keras.Model:
    """Build DenseNet201, all layers trainable, with global average pooling, dropout, batch norm and one unit.

    Input:  uint8 (batch, height, width, 3), any height and width; resized to `image_size` inside.
    Output: probability of the positive class, (batch, 1), float32.
    """
    return under_head("densenet201", image_size, dropout, name="densenet201")
