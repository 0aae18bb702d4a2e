"""Every recipe of `params.yaml` on every real data set: input size, classes and cases come from the data."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from histopipe.core.params import parse_params
from histopipe.core.workspace import Workspace
from histopipe.data.splitting.stage import split
from histopipe.data.store import PatchStore
from histopipe.ingest.stage import ingest
from histopipe.training.stage import train

CAPS = {"max_epochs": 1, "max_patches": 32, "max_image_size": 32, "weights": "random"}
SAMPLES = {"idc": "idc-sample.zip", "malaria": "malaria-sample.zip", "breakhis": "breakhis-sample.zip"}


@pytest.mark.long
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("dataset", SAMPLES)
def test_every_recipe_trains_on(
    dataset: str, real: Callable[[str], Path], workspace: Workspace, content: dict[str, Any]
) -> None:
    params = parse_params(content | {"datasets": [dataset], "quick": CAPS})
    workspace.raw(dataset).mkdir(parents=True)
    shutil.copy(real(SAMPLES[dataset]), workspace.raw(dataset) / "archive.zip")
    ingest(dataset, params, workspace)
    split(dataset, params, workspace)
    patches = PatchStore.open(workspace.store(dataset)).gather(np.arange(8))
    for name in params.recipes:
        train(dataset, name, params, workspace)
        network = keras.saving.load_model(workspace.model(dataset, name) / "model.keras", compile=False)
        probabilities = np.asarray(network(patches))
        assert probabilities.shape == (8, 1), name
        assert ((probabilities >= 0) & (probabilities <= 1)).all(), name
        keras.backend.clear_session()
