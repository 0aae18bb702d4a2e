"""Run in a process of its own, under another KERAS_BACKEND: every architecture and a whole training."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import yaml

from histopipe.core.errors import TrainingError
from histopipe.core.params import Params, TrainParams, parse_params
from histopipe.core.workspace import Workspace
from histopipe.data.splitting.stage import split
from histopipe.ingest.stage import ingest
from histopipe.networks.architectures import list_architectures
from histopipe.training.augmentation import RandomAffine
from histopipe.training.devices import choose_devices
from histopipe.training.loop import build_training
from histopipe.training.plan import plan_training
from histopipe.training.stage import train
from tests.builders.archives import idc_members, write_zip
from tests.builders.networks import SMALL_IMAGE, TINY, patches
from tests.builders.paths import ROOT


def main(folder: Path, names: list[str]) -> None:
    """Raise where the backend can't do what TensorFlow can with these architectures; print its name at the end."""
    workspace, params = Workspace(folder), small_params()
    write_zip(workspace.raw("idc") / "archive.zip", idc_members(cases=12, patches=4))
    ingest("idc", params, workspace)
    split("idc", params, workspace)
    warps_as_keras_does(params)
    for name in names:
        trains_a_step_and_predicts(name, params, workspace)
    trains_saves_and_loads(params, workspace)
    refuses_to_share()
    print("backend:", keras.backend.backend())


def small_params() -> Params:
    """Every architecture under CancerNet's recipe, which augments, at its cheapest."""
    content = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    recipe = content["recipes"]["cancernet"]
    content["recipes"] = {
        name: recipe | {"model": {"image_size": SMALL_IMAGE} | TINY.get(name, {})} for name in list_architectures()
    }
    content["quick"] = {"max_epochs": 1}
    return parse_params(content)


def warps_as_keras_does(params: Params) -> None:
    ranges, batch = params.recipe("cancernet").augmentation, patches(8)
    transforms = RandomAffine(ranges, seed=1)._transforms(batch)
    expected = keras.ops.image.affine_transform(batch.astype("float32"), transforms, fill_mode=ranges.fill)
    moved = keras.ops.convert_to_numpy(RandomAffine(ranges, seed=1)(batch, training=True))
    assert moved.dtype == np.uint8 and (moved != batch).any()
    assert np.abs(moved - np.array(keras.ops.convert_to_numpy(expected))).max() <= 1


def trains_a_step_and_predicts(name: str, params: Params, workspace: Workspace) -> None:
    network, trainer = build_training(plan_training("idc", name, params, workspace))
    before = [np.array(weight) for weight in network.get_weights()]
    loss = trainer.train_on_batch(patches(8), np.arange(8, dtype="float32")[:, None] % 2)
    assert math.isfinite(loss), name
    assert any((old != new).any() for old, new in zip(before, network.get_weights(), strict=True)), name
    probabilities = network.predict_on_batch(patches(3))
    assert probabilities.shape == (3, 1) and probabilities.dtype == np.float32, name
    assert ((probabilities >= 0) & (probabilities <= 1)).all(), name


def trains_saves_and_loads(params: Params, workspace: Workspace) -> None:
    train("idc", "cancernet", params, workspace)
    folder = workspace.model("idc", "cancernet")
    assert np.isfinite(pd.read_csv(folder / "history.csv")["train/loss"]).all()
    loaded = keras.saving.load_model(folder / "model.keras", safe_mode=True)
    assert loaded.predict_on_batch(patches(3)).shape == (3, 1)


def refuses_to_share() -> None:
    try:
        choose_devices(TrainParams(devices="all"))
    except TrainingError as problem:
        assert str(problem).startswith("train.devices: all needs TensorFlow, and Keras runs on")
    else:
        raise AssertionError("several devices without TensorFlow")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
