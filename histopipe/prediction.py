"""Running a network over patches of a store."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from histopipe.store import PatchStore, Rows

if TYPE_CHECKING:
    import keras

BATCH_SIZE = 256  # large enough to keep a few cores busy; does not change the result beyond rounding


def logit_network(network: keras.Model) -> keras.Model:
    """The part of a network that ends before its sigmoid; shares its weights.

    Raises:
        ValueError: the network has no layer of that name.
    """
    import keras

    from histopipe.architectures.blocks import OUTPUT_LAYER

    return keras.Model(network.input, network.get_layer(OUTPUT_LAYER).output)


def predict_logits(logits: keras.Model, store: PatchStore, rows: Rows, title: str | None = None) -> NDArray[np.float64]:
    """Log odds of the positive class at `rows` of the store, (rows,).

    Logits rather than probabilities, since those of a sure network are rounded to 0 or 1 and can't be calibrated.

    Args:
        logits: what `logit_network` gives.
        title: of the progress bar; none is shown without it.
    """
    values = np.empty(len(rows), np.float64)
    with tqdm(total=len(rows), desc=title, unit="patch", unit_scale=True, file=sys.stderr, disable=not title) as bar:
        for start in range(0, len(rows), BATCH_SIZE):
            part = slice(start, start + BATCH_SIZE)
            values[part] = np.asarray(logits.predict_on_batch(store.gather(rows[part])))[:, 0]
            bar.update(len(rows[part]))
    return values
