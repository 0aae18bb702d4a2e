"""Prediction averaged over the eight symmetries of the square (test-time augmentation with the group D4).

Tissue has no up and down: a network trained on all orientations still predicts each of them a little differently,
and the mean is the better prediction. The averaging is part of the network, so whatever loads the saved file has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras

ONE_VIEW = "one_view"  # the nested network that sees one orientation
HEIGHT, WIDTH = 1, 2  # axes of patches (batch, height, width, channels)


def averaged_over_symmetries(network: keras.Model) -> keras.Model:
    """Build a network whose logit is the mean of `network`'s over the eight orientations of each patch.

    The last layer is linear, so the mean is taken of its inputs; the network keeps one layer called `logit`, which
    calibration changes. Weights are copied.

    Args:
        network: from uint8 patches (batch, height, width, 3) to probabilities (batch, 1).
    """
    import keras
    from keras import ops

    from histopipe.networks.architectures.blocks import OUTPUT_LAYER, patch_input, probability

    output = network.get_layer(OUTPUT_LAYER)
    one_view = keras.Model(network.input, output.input, name=ONE_VIEW)
    patches = patch_input()
    mirrored = ops.flip(patches, WIDTH)  # one axis at a time: OpenVINO knows no other flips
    turned = [ops.flip(views, HEIGHT) for views in (patches, mirrored)]
    upright = ops.concatenate([patches, mirrored, *turned], axis=0)
    lying = ops.transpose(upright, (0, 2, 1, 3))  # another shape where patches aren't square
    width = output.input.shape[-1]
    four = [ops.mean(ops.reshape(one_view(views), (4, -1, width)), axis=0) for views in (upright, lying)]
    averaged = keras.Model(patches, probability((four[0] + four[1]) / 2.0), name=network.name)
    averaged.get_layer(OUTPUT_LAYER).set_weights(output.get_weights())
    return averaged


def is_averaged(network: keras.Model) -> bool:
    """Return whether the network averages over symmetries."""
    return any(layer.name == ONE_VIEW for layer in network.layers)


def one_view_network(network: keras.Model) -> keras.Model:
    """Return the network without its averaging: it sees each patch as it is. The last layer's weights are copied."""
    import keras

    from histopipe.networks.architectures.blocks import OUTPUT_LAYER, patch_input, probability

    patches = patch_input()
    single = keras.Model(patches, probability(network.get_layer(ONE_VIEW)(patches)), name=network.name)
    single.get_layer(OUTPUT_LAYER).set_weights(network.get_layer(OUTPUT_LAYER).get_weights())
    return single
