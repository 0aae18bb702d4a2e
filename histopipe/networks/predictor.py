"""Log odds of patches, by OpenVINO where it is faster and can compile the network, else by Keras.

All predictions are made here: those of `evaluate` and `promote` for rows of a store, of `predict` for chunks of images,
of the service for what clients send. A training validates by Keras alone (`histopipe.networks.prediction`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from histopipe.core.errors import InferenceError
from histopipe.data.store import Patches, PatchStore, Rows
from histopipe.networks.backend import is_on_tensorflow_cpu
from histopipe.networks.openvino import BATCH_SIZE, CompiledNetwork, Precision, is_quicker
from histopipe.networks.prediction import KerasNetwork, Runtime, keras_for, row_logits

if TYPE_CHECKING:
    import keras

FEW = (1, 8, 32)  # patches of a request to the service: Keras is traced for these sizes, and warmed up with them
PIECE = 8  # patches of one request to OpenVINO: each core takes its own pieces, which is three times as fast as one
# request of 32 patches that all cores share (CancerNet, 2 cores: 5 ms and 17 ms)
WARM_UP = 8  # runs, since the first ones take longer: each of OpenVINO's requests gets its memory when it is used

LOG = logging.getLogger(__name__)

Numbers = NDArray[np.float64]


class Predictor:
    """A network that predicts patches, in their order, for one thread at a time.

    Args:
        runtimes: runtimes of a `logit_network`, ascending by batch size: the first that holds all patches in one batch
            computes them, else the last.
    """

    def __init__(self, runtimes: Sequence[Runtime]) -> None:
        self._runtimes = runtimes

    def logits(self, patches: Patches) -> Numbers:
        """Compute log odds of the positive class.

        Args:
            patches: uint8 (patches, height, width, 3).

        Returns:
            Float64 (patches,).
        """
        runtime = self._runtime(len(patches))
        return runtime.predict(patches.__getitem__, len(patches))[0][:, 0].astype(np.float64)

    def probabilities(self, patches: Patches) -> Numbers:
        """Compute probabilities of the positive class, float64 (patches,)."""
        return np.asarray(expit(self.logits(patches)))

    def row_logits(self, store: PatchStore, rows: Rows, title: str | None = None) -> Numbers:
        """Compute log odds at `rows` of a store, under a progress bar where there is a title; float64 (rows,)."""
        return row_logits(self._runtime(len(rows)), store, rows, title)

    def _runtime(self, count: int) -> Runtime:
        return next((runtime for runtime in self._runtimes if runtime.sizes[-1] >= count), self._runtimes[-1])


def predictor_for(
    logits: keras.Model,
    patch_size: tuple[int, int],
    count: float = math.inf,
    precision: Precision = "float32",
    title: str = "",
) -> Predictor:
    """Create a predictor for many patches, compiled where that is faster with compiling included.

    Args:
        logits: network that `logit_network` returns.
        patch_size: height and width in pixels.
        count: number of all patches; infinite where it is unknown but large.
        precision: precision of the arithmetic; any other than float32 is always compiled.
        title: begins the warning that a network can't be compiled and Keras predicts instead.

    Raises:
        InferenceError: the network can't be compiled for another precision than float32.
    """
    if precision != "float32" or is_quicker(count):
        compiled = _compiled(logits, patch_size, precision, [(BATCH_SIZE, False)], title)
        if compiled:
            return Predictor(compiled)
    return Predictor([keras_for(logits, count)])


def ready_predictor(logits: keras.Model, patch_size: tuple[int, int], precision: Precision = "float32") -> Predictor:
    """Create a predictor that is fast for few patches and for many, from the first request on.

    On a CPU it is compiled twice: for a single patch, computed by all cores, and for pieces of more. On a GPU, Keras
    predicts.

    Args:
        logits: network that `logit_network` returns.
        patch_size: height and width in pixels.
        precision: precision of the arithmetic.

    Raises:
        InferenceError: the network can't be compiled for another precision than float32.
    """
    compiled: list[Runtime] = []
    if precision != "float32" or is_on_tensorflow_cpu():
        compiled = _compiled(logits, patch_size, precision, [(1, True), (PIECE, False)])
    predictor = Predictor(compiled or [KerasNetwork(logits, FEW)])
    for count in FEW:
        for _ in range(WARM_UP):
            predictor.logits(np.zeros((count, *patch_size, 3), np.uint8))
    return predictor


def _compiled(
    logits: keras.Model,
    patch_size: tuple[int, int],
    precision: Precision,
    kinds: Sequence[tuple[int, bool]],
    title: str = "",
) -> list[Runtime]:
    """Compile a network for each batch size and use of cores; empty, with a warning, where float32 is left to Keras."""
    try:
        return [CompiledNetwork(logits, patch_size, precision, size, at_once) for size, at_once in kinds]
    except InferenceError as problem:
        if precision != "float32":
            raise
        LOG.warning("%s", ": ".join(filter(None, (title, str(problem)))))
        return []
