"""A network made ready to grade few patches soon and many quickly."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from histopipe.backend import on_tensorflow_cpu
from histopipe.errors import InferenceError
from histopipe.inference import BATCH_SIZE, CompiledNetwork, Precision
from histopipe.prediction import logit_network
from histopipe.store import Patches

if TYPE_CHECKING:
    import keras

SIZES = (1, 8, BATCH_SIZE)  # patches at once; each is compiled for itself, since a batch is filled up to its size

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
        for size, run in self._runs:  # the first one takes longer
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
            return [(size, _compiled(network, patch_size, precision, size)) for size in SIZES]
        except InferenceError as problem:
            if precision != "float32":
                raise
            LOG.warning("%s", problem)
    return [(size, _by_keras(network, size)) for size in SIZES]


def _compiled(network: keras.Model, patch_size: tuple[int, int], precision: Precision, size: int) -> Run:
    compiled = CompiledNetwork(network, patch_size, precision, size, at_once=True)
    return lambda batch: compiled.predict([batch], len(batch))


def _by_keras(network: keras.Model, size: int) -> Run:
    def run(batch: Patches) -> NDArray[Any]:
        filled = np.zeros((math.ceil(len(batch) / size) * size, *batch.shape[1:]), np.uint8)
        filled[: len(batch)] = batch
        return np.asarray(network.predict_on_batch(filled))[:, 0]

    return run
