"""Probabilities for patches of a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from histopipe.loading import PatchBatches
from histopipe.store import PatchStore, Rows

if TYPE_CHECKING:
    import keras

BATCH_SIZE = 256  # large enough to keep two cores busy; does not change the result beyond rounding


def predict(network: keras.Model, store: PatchStore, rows: Rows) -> NDArray[np.float64]:
    """Probability of the positive class for each of `rows`, (patches,), in that order."""
    batches = PatchBatches(store, rows, BATCH_SIZE)
    return network.predict(batches, verbose=0)[:, 0].astype(np.float64)
