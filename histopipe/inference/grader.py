"""Probabilities of patches by a served model, as quickly as their number makes worth while."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from histopipe.inference.model import Served
from histopipe.inference.table import chunk_size
from histopipe.networks.openvino import Precision
from histopipe.networks.prediction import KerasNetwork, logit_network
from histopipe.networks.predictor import Predictor, predictor_for


class Grader:
    """Compute calibrated probabilities of chunks of patches, of which nobody knows how many will come.

    Keras computes them until a chunk is as good as full, which means that many more will come: then OpenVINO does,
    where it is quicker and can. Another precision than float32 is compiled from the start.

    Args:
        served: the model.
        precision: of the arithmetic.

    Raises:
        InferenceError: the network can't be compiled for a precision that was asked for.
    """

    def __init__(self, served: Served, precision: Precision) -> None:
        self._network, self._patch_size = logit_network(served.network), served.patch_size
        self._settled = precision != "float32"
        if self._settled:
            self._predictor = predictor_for(self._network, self._patch_size, precision=precision)
        else:
            self._predictor = Predictor([KerasNetwork(self._network)])

    def probabilities(self, patches: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Compute one probability for each patch.

        Args:
            patches: (patches, height, width, 3), of the model's size.
        """
        if not self._settled and 2 * len(patches) >= chunk_size(self._patch_size):
            self._predictor, self._settled = predictor_for(self._network, self._patch_size), True
        return self._predictor.probabilities(patches)
