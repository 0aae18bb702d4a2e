"""Probabilities of patches by a served model, as quickly as their number makes worth while."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from histopipe.core.errors import InferenceError
from histopipe.inference.model import Served
from histopipe.inference.table import chunk_size
from histopipe.networks.openvino import BATCH_SIZE, WORTH_COMPILING, CompiledNetwork, Precision, is_quicker
from histopipe.networks.prediction import BATCH_SIZE as KERAS_BATCH
from histopipe.networks.prediction import logit_network

Numbers = NDArray[np.float64]
Grade = Callable[[NDArray[np.uint8]], Numbers]


class Grader:
    """Calibrated probabilities: compiled where that is quicker or asked for, else Keras'.

    Args:
        served: the model.
        precision: of the arithmetic.
    """

    def __init__(self, served: Served, precision: Precision) -> None:
        self._network = logit_network(served.network)
        self._patch_size, self._precision = served.patch_size, precision
        self._compiled: Grade | None = None
        self._settled = False

    def probabilities(self, patches: NDArray[np.uint8]) -> Numbers:
        """One for each patch.

        Args:
            patches: (patches, height, width, 3), of the model's size.

        Raises:
            InferenceError: the network can't be compiled for a precision that was asked for.
        """
        if not self._settled and self._is_worth_it(len(patches)):
            self._compiled, self._settled = self._by_compiled(), True
        return np.asarray(expit((self._compiled or self._by_keras)(patches)))

    def _is_worth_it(self, count: int) -> bool:
        """Whether to compile: a chunk as good as full means that many more will come."""
        full = 2 * count >= chunk_size(self._patch_size)
        return self._precision != "float32" or (full and is_quicker(WORTH_COMPILING))

    def _by_compiled(self) -> Grade | None:
        try:
            compiled = CompiledNetwork(self._network, self._patch_size, self._precision)
        except InferenceError:
            if self._precision != "float32":
                raise
            return None
        return lambda patches: compiled.predict(
            (patches[start : start + BATCH_SIZE] for start in range(0, len(patches), BATCH_SIZE)), len(patches)
        ).astype(np.float64)

    def _by_keras(self, patches: NDArray[np.uint8]) -> Numbers:
        count = math.ceil(len(patches) / KERAS_BATCH) * KERAS_BATCH  # filled up: another size is traced anew
        filled = np.zeros((count, *patches.shape[1:]), np.uint8)
        filled[: len(patches)] = patches
        parts = [
            self._network.predict_on_batch(filled[start : start + KERAS_BATCH])
            for start in range(0, count, KERAS_BATCH)
        ]
        return np.concatenate(parts)[: len(patches), 0].astype(np.float64)
