"""Prediction of patches with a served model, on the runtime that is fastest for their number."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from histopipe.inference.model import ServedModel
from histopipe.inference.table import chunk_size
from histopipe.networks.openvino import Precision
from histopipe.networks.prediction import KerasNetwork, logit_network
from histopipe.networks.predictor import Predictor, predictor_for


class PatchPredictor:
    """A predictor for chunks of patches whose total number isn't known in advance.

    It starts with Keras. Once a chunk is at least half full, many more patches are likely, and it switches to OpenVINO
    if that is available and faster. A precision other than float32 is compiled for OpenVINO from the start.

    Args:
        served: the model.
        precision: the number type of the computation.

    Raises:
        InferenceError: the network can't be compiled for the requested precision.
    """

    def __init__(self, served: ServedModel, precision: Precision) -> None:
        self._network, self._patch_size = logit_network(served.network), served.patch_size
        self._settled = precision != "float32"
        if self._settled:
            self._predictor = predictor_for(self._network, self._patch_size, precision=precision)
        else:
            self._predictor = Predictor([KerasNetwork(self._network)])

    def probabilities(self, patches: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Compute the calibrated probability of each patch.

        Args:
            patches: uint8 (patches, height, width, 3), of the model's patch size.

        Returns:
            The probabilities, (patches,).
        """
        if not self._settled and 2 * len(patches) >= chunk_size(self._patch_size):
            self._predictor, self._settled = predictor_for(self._network, self._patch_size), True
        return self._predictor.probabilities(patches)
