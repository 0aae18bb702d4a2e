"""Maps of evidence: HiResCAM (Draelos & Carin 2020, arXiv:2011.08891).

A layer's maps are multiplied place by place with the logit's gradient there, and summed over channels. Grad-CAM
(Selvaraju et al. 2017) first takes a channel's mean gradient over all places. The two agree where a network ends in
global average pooling. Where it doesn't, as CancerNet, whose dense layer weighs each place by itself, that mean points
at places on which the logit doesn't depend. Where a linear layer alone comes behind the maps, pooling or not, a
HiResCAM map sums to the logit less its bias: it is the logit, taken apart by place. So its sign is kept: values above 0
speak for the positive class, those below for the other.

The logit of a network that averages over the symmetries of the square is the mean of eight views' logits, so its map is
the mean of their maps, each turned back.
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
    """Maps of evidence from one network.

    Attributes:
        cut: the network, taken apart at the layer whose maps are read.
        averaged: whether the network averages over the symmetries of the square.
    """

    cut: Cut
    averaged: bool

    @classmethod
    def of(cls, network: keras.Model, layer: str | None = None) -> Explainer:
        """Prepare any network of this project; `layer` as for `cut_network`.

        Raises:
            EvaluationError: there is no such layer.
        """
        return cls(cut_network(network, layer), is_averaged(network))

    def maps(self, patches: Patches) -> Maps:
        """What speaks for the positive class, and below 0 what speaks against it, at every pixel.

        Args:
            patches: uint8 (patches, height, width, 3).

        Returns:
            (patches, height, width), float32: the evidence of the layer's places, resized (bilinear) to the patches.
        """
        found = ops.image.resize(self.evidence(patches)[..., None], patches.shape[1:3], interpolation="bilinear")
        return np.asarray(ops.convert_to_numpy(found)[..., 0], np.float32)

    def evidence(self, patches: Patches) -> Maps:
        """Each place's share of the logit, (patches, *cut.shape[:2]), float32."""
        parts = [self._of_batch(patches[start : start + BATCH_SIZE]) for start in range(0, len(patches), BATCH_SIZE)]
        return np.concatenate(parts) if parts else np.empty((0, *self.cut.shape[:2]), np.float32)

    def _of_batch(self, patches: Patches) -> Maps:
        if not self.averaged:
            return self._of_one_view(patches)
        views = product(FLIPS, (False, True))
        return np.mean([turned_back(self._of_one_view(turned(patches, *view)), *view) for view in views], axis=0)

    def _of_one_view(self, patches: Patches) -> Maps:
        with without_gradients():
            activations = ops.cast(_run(self.cut.front, patches), "float32")  # also of a network in half precision
        gradients = gradient_of_sum(lambda maps: ops.cast(_run(self.cut.back, maps), "float32"), activations)
        return np.asarray(ops.convert_to_numpy(ops.sum(activations * gradients, axis=-1)), np.float32)


def turned(patches: Patches, flip: tuple[int, ...], transposed: bool) -> Patches:
    """Patches flipped along axes, and then transposed if they are to be."""
    flipped = np.flip(patches, flip)
    return np.ascontiguousarray(np.swapaxes(flipped, 1, 2) if transposed else flipped)  # torch takes no other


def turned_back(maps: Maps, flip: tuple[int, ...], transposed: bool) -> Maps:
    """Maps of `turned` patches as the patches lay before."""
    return np.flip(np.swapaxes(maps, 1, 2) if transposed else maps, flip)


def _run(steps: Iterable[Step], values: Any) -> Any:
    return reduce(lambda value, step: step(value), steps, values)
