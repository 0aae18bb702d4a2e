"""A network made ready to grade few patches soon and many quickly."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from histopipe.core.errors import InferenceError
from histopipe.data.store import Patches
from histopipe.networks.backend import on_tensorflow_cpu
from histopipe.networks.openvino import BATCH_SIZE, CompiledNetwork, Precision
from histopipe.networks.prediction import logit_network

if TYPE_CHECKING:
    import keras

SIZES = (1, 8, BATCH_SIZE)  # patches that Keras takes at once; a batch is filled up to its size
WARM_UP = 8  # runs, since the first ones take longer: each of OpenVINO's requests gets its memory when it is used
PIECE = 8  # patches of one request to OpenVINO: cores take pieces of their own, which is three times as quick as one
# request of 32 patches that all cores share (CancerNet, 2 cores: 5 ms and 17 ms)

LOG = logging.getLogger(__name__)

Probabilities = NDArray[np.float64]
Run = Callable[[Patches], NDArray[Any]]  # from a batch, perhaps smaller than the run's size, to its log odds


class Engine:
    """Probabilities of patches, for one thread at a time.

    Compiled by OpenVINO on a CPU; by Keras on a GPU, or where the network can't be compiled.

    Args:
        network: calibrated, as it was logged.
        patch_size: height and width in pixels.
        precision: of the arithmetic.

    Raises:
        InferenceError: another precision than float32 can't be had.
    """

    def __init__(self, network: keras.Model, patch_size: tuple[int, int], precision: Precision) -> None:
        self._runs = _runs(logit_network(network), patch_size, precision)
        for size, run in self._runs:
            for _ in range(WARM_UP):
                run(np.zeros((size, *patch_size, 3), np.uint8))

    def probabilities(self, patches: Patches) -> Probabilities:
        """One for each patch, (patches,)."""
        parts = []
        for start in range(0, len(patches), SIZES[-1]):
            batch = patches[start : start + SIZES[-1]]
            run = next(run for size, run in self._runs if size >= len(batch))
            parts.append(run(batch)[: len(batch)])
        found: Probabilities = expit(np.concatenate(parts).astype(np.float64))
        return found


def _runs(network: keras.Model, patch_size: tuple[int, int], precision: Precision) -> list[tuple[int, Run]]:
    if precision != "float32" or on_tensorflow_cpu():
        try:
            alone = CompiledNetwork(network, patch_size, precision, 1, at_once=True)
            many = CompiledNetwork(network, patch_size, precision, PIECE)
            return [(1, _in_pieces(alone)), (SIZES[-1], _in_pieces(many))]
        except InferenceError as problem:
            if precision != "float32":
                raise
            LOG.warning("%s", problem)
    return [(size, _by_keras(network, size)) for size in SIZES]


def _in_pieces(compiled: CompiledNetwork) -> Run:
    size = compiled.batch_size
    return lambda batch: compiled.predict((batch[at : at + size] for at in range(0, len(batch), size)), len(batch))


def _by_keras(network: keras.Model, size: int) -> Run:
    def run(batch: Patches) -> NDArray[Any]:
        filled = np.zeros((math.ceil(len(batch) / size) * size, *batch.shape[1:]), np.uint8)
        filled[: len(batch)] = batch
        return np.asarray(network.predict_on_batch(filled))[:, 0]

    return run
