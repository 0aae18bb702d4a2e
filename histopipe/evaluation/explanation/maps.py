"""Maps of evidence: HiResCAM (Draelos & Carin 2020, arXiv:2011.08891).

A layer's maps are multiplied at each position with the logit's gradient there, and summed over channels. Grad-CAM
(Selvaraju et al. 2017) first averages a channel's gradient over all positions. The two agree if a network ends in
global average pooling. Other networks, such as CancerNet, have a dense layer that weighs each position by itself. There
the average highlights positions on which the logit doesn't depend. If only a linear layer follows the maps, with or
without pooling, a HiResCAM map sums to the logit minus its bias, so it divides the logit among positions. Therefore the
sign is kept: values above 0 are evidence for the positive class, values below 0 for the negative class.

The logit of a network that averages over the symmetries of the square is the mean of eight views' logits, so its map is
the mean of their maps, each transformed back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from itertools import product
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from histopipe.data.store import Patches
from histopipe.evaluation.explanation.cuts import Cut, Step, cut_network
from histopipe.evaluation.explanation.gradients import gradient_of_sum, without_gradients
from histopipe.networks.symmetry import is_averaged

BATCH_SIZE = 64  # bounds the memory for maps and gradients; does not change the result beyond rounding
FLIPS = ((), (1,), (2,), (1, 2))  # axes of (batch, height, width); with and without a transposition, all eight views

Maps = NDArray[np.float32]  # (patches, height, width)


@dataclass(frozen=True)
class Explainer:
    """A method that computes maps of evidence for one network.

    Attributes:
        cut: the network, divided at the layer whose maps are used.
        averaged: whether the network averages over the symmetries of the square.

    Example:
        >>> maps = Explainer.for_network(network).maps(patches)
        >>> maps.shape
        (8, 48, 48)
    """

    cut: Cut
    averaged: bool

    @classmethod
    def for_network(cls, network: keras.Model, layer: str | None = None) -> Explainer:
        """Create an explainer for any network of this project; `layer` as for `cut_network`.

        Raises:
            EvaluationError: there is no such layer.
        """
        return cls(cut_network(network, layer), is_averaged(network))

    def maps(self, patches: Patches) -> Maps:
        """Compute the evidence for the positive class at every pixel; values below 0 are evidence against it.

        Args:
            patches: uint8 (patches, height, width, 3).

        Returns:
            (patches, height, width), float32: the evidence at the layer's positions, resized (bilinear) to the patches.
        """
        resized = ops.image.resize(self.evidence(patches)[..., None], patches.shape[1:3], interpolation="bilinear")
        return np.asarray(ops.convert_to_numpy(resized)[..., 0], np.float32)

    def evidence(self, patches: Patches) -> Maps:
        """Compute the contribution of each position of the layer to the logit, (patches, *cut.shape[:2]), float32."""
        parts = [self._of_batch(patches[start : start + BATCH_SIZE]) for start in range(0, len(patches), BATCH_SIZE)]
        return np.concatenate(parts) if parts else np.empty((0, *self.cut.shape[:2]), np.float32)

    def _of_batch(self, patches: Patches) -> Maps:
        if not self.averaged:
            return self._of_one_view(patches)
        views = product(FLIPS, (False, True))
        return np.mean([undo_transform(self._of_one_view(transform(patches, *view)), *view) for view in views], axis=0)

    def _of_one_view(self, patches: Patches) -> Maps:
        with without_gradients():
            activations = ops.cast(_run(self.cut.front, patches), "float32")  # a network may be in half precision
        gradients = gradient_of_sum(lambda maps: ops.cast(_run(self.cut.back, maps), "float32"), activations)
        return np.asarray(ops.convert_to_numpy(ops.sum(activations * gradients, axis=-1)), np.float32)


def transform(patches: Patches, flip: tuple[int, ...], transposed: bool) -> Patches:
    """Flip patches along axes, and then transpose them if asked to."""
    flipped = np.flip(patches, flip)
    return np.ascontiguousarray(np.swapaxes(flipped, 1, 2) if transposed else flipped)  # torch needs contiguous arrays


def undo_transform(maps: Maps, flip: tuple[int, ...], transposed: bool) -> Maps:
    """Undo `transform` on the maps of transformed patches."""
    return np.flip(np.swapaxes(maps, 1, 2) if transposed else maps, flip)


def _run(steps: Iterable[Step], values: Any) -> Any:
    return reduce(lambda value, step: step(value), steps, values)
