"""Run a trained network over the store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from histopipe.core.errors import EvaluationError
from histopipe.core.files import restore_command
from histopipe.data.store import PatchStore, Rows
from histopipe.networks.backend import grow_gpu_memory
from histopipe.networks.prediction import logit_network
from histopipe.networks.predictor import predictor_for

if TYPE_CHECKING:
    import keras

Numbers = NDArray[np.float64]


def load_network(path: Path) -> keras.Model:
    """Load a trained network; nothing in the file is run (Keras' `safe_mode`).

    Raises:
        EvaluationError: the file is missing or damaged, or its network lacks this project's output layer.
    """
    import keras

    from histopipe.networks.architectures.blocks import OUTPUT_LAYER

    grow_gpu_memory()
    stage = f"train@{path.parent.parent.name}-{path.parent.name}"
    if not path.is_file():
        raise EvaluationError(f"{path} is missing: run `dvc repro {stage}`")
    try:
        network = keras.saving.load_model(path, compile=False, safe_mode=True)
        network.get_layer(OUTPUT_LAYER)
    except Exception as problem:  # a damaged or foreign file fails in as many ways as there are bytes
        reason = f"{type(problem).__name__}: {' '.join(str(problem).split())[:120]}"
        raise EvaluationError(f"{path} can't be loaded ({reason}): {restore_command(path)} or train again") from None
    return network


def finite_logits(network: keras.Model, store: PatchStore, rows: Rows, title: str) -> Numbers:
    """Compute log odds of the positive class at `rows` of the store, (rows,), by the fastest runtime for that many.

    Raises:
        EvaluationError: some log odds aren't finite numbers.
    """
    predictor = predictor_for(logit_network(network), store.patch_size, len(rows), title=title)
    logits = predictor.row_logits(store, rows, title)
    _require_numbers(logits, store, rows, title)
    return logits


def _require_numbers(logits: Numbers, store: PatchStore, rows: Rows, title: str) -> None:
    not_finite = np.flatnonzero(~np.isfinite(logits))
    if len(not_finite):
        first = store.index["file"].iloc[int(rows[not_finite[0]])]
        raise EvaluationError(
            f"{title}: {len(not_finite):,} of {len(rows):,} predictions are no numbers (first: {first}): "
            "the training diverged; lower its learning rate and train again"
        )
