"""Evaluated networks of known strength, and what their registry and its versions hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
import yaml

from histopipe.core.files import file_digest, read_json, write_json
from histopipe.core.params import Params, parse_params
from histopipe.core.workspace import Workspace
from histopipe.data.store import INDEX_FILE, REPORT_FILE, shard_name
from histopipe.evaluation.explanation.stage import UNEXPLAINED
from histopipe.evaluation.stage import evaluate
from histopipe.networks.architectures.blocks import patch_input, probability, rescale
from histopipe.training.recipe import recipe_digest
from tests.builders.registry import NAME, client, tags

CASES, PATCHES = 36, 16
CHANNELS = {"better": (0, 45), "good": (1, 22), "worse": (2, 6)}  # what each looks at, and how much darker IDC is there
WRITES = (  # of a client to the registry
    "create_registered_model",
    "create_model_version",
    "update_model_version",
    "set_model_version_tag",
    "delete_model_version_tag",
    "set_registered_model_alias",
    "delete_registered_model_alias",
    "log_artifact",
)


def content(*architectures: str, **changes: Any) -> dict[str, Any]:
    """Return the content of a params.yaml that lists these architectures, with some sections changed."""
    recipe = {"architecture": "cancernet", "optimizer": {"name": "adam", "learning_rate": 0.001}}
    return {
        "datasets": ["idc"],
        "architectures": list(architectures),
        "idc": {},
        "evaluate": {"resamples": 200},
        "promotion": {"min_sensitivity": 0.3, "min_specificity": 0, "max_calibration_error": 0.3, "min_cases": 6},
        "recipes": dict.fromkeys(CHANNELS, recipe),
    } | changes


def asked(*architectures: str, **changes: Any) -> Params:
    """Return parameters that list these architectures, with some sections changed."""
    return parse_params(content(*architectures, **changes))


def make_workspace(root: Path) -> Workspace:
    """Make a store whose colour channels tell the classes apart well, a little and hardly; and a network for each."""
    workspace = Workspace(root)
    workspace.params.write_text(yaml.safe_dump(content("good")))
    random = np.random.default_rng(0)
    case, label = np.repeat(np.arange(CASES), PATCHES), random.integers(0, 2, CASES * PATCHES)
    darker = np.array([drop for _, drop in CHANNELS.values()])
    level = 150 - label[:, None] * darker + random.normal(0, 25, (len(case), 3))
    patches = np.clip(level[:, None, None, :] + random.normal(0, 5, (len(case), 12, 12, 3)), 0, 255).astype(np.uint8)
    write_store(workspace.store("idc"), patches, case, label)
    workspace.split("idc").parent.mkdir(parents=True)
    rows = [f"{number:03},{('train', 'validation', 'test')[number % 3]}" for number in range(CASES)]
    workspace.split("idc").write_text("\n".join(["case_id,split", *rows]) + "\n")
    for number, name in enumerate(CHANNELS):
        write_training(workspace, name, str(number) * 32)
    return workspace


def make_evaluated(root: Path) -> Workspace:
    """Make a workspace whose three networks are evaluated."""
    workspace = make_workspace(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for name in CHANNELS:
            evaluate("idc", name, asked(name), workspace)
    explanation = read_json(workspace.evaluation("idc", name) / "explanation.json")
    assert explanation["verdict"] == UNEXPLAINED  # these networks see means of colours only; it stopped nothing
    return workspace


def write_store(folder: Path, patches: np.ndarray, case: np.ndarray, label: np.ndarray) -> None:
    """Write a store of one shard."""
    folder.mkdir(parents=True)
    np.save(folder / shard_name(0), patches)
    index = pd.DataFrame({"file": [f"{number}.png" for number in range(len(case))]})
    index["case_id"] = [f"{number:03}" for number in case]
    index["label"], index["shard"], index["row"] = label, 0, np.arange(len(case))
    index["digest"] = [f"{number:032x}" for number in range(len(case))]
    index.to_parquet(folder / INDEX_FILE, index=False)
    counts = {"patches": len(case), "cases": CASES, "positive": int(label.sum()), "undersized": 0}
    odd = {"set_aside": {"second copy": {"count": 3, "bad": False}}, "same_pixels_in_two_cases": 0}
    write_json(folder / REPORT_FILE, {"classes": ["benign", "IDC"], "patch_size": [12, 12]} | counts | odd)


def write_training(workspace: Workspace, name: str, run_id: str) -> None:
    """Write the network and the record of a training."""
    folder = workspace.model("idc", name)
    folder.mkdir(parents=True, exist_ok=True)
    channel_network(CHANNELS[name][0]).save(folder / "model.keras")
    cases = pd.read_csv(workspace.split("idc"), dtype=str)
    record = {
        "run_id": run_id,
        "dataset": "idc",
        "recipe_digest": recipe_digest(asked("good"), name),
        "split_digest": file_digest(workspace.split("idc")),
        "split_scheme": "grouped",
        "quick": {"max_epochs": 3},
        "leaky": False,
        "epochs": 3,
        "parameters": 4,
        "train_cases": cases["case_id"][cases["split"] == "train"].tolist(),
        "validation_cases": cases["case_id"][cases["split"] == "validation"].tolist(),
    }
    write_json(folder / "run.json", record)


def channel_network(channel: int) -> keras.Model:
    """Build a network that calls dark patches positive, by one colour channel alone."""
    patches = patch_input()
    output = probability(keras.layers.GlobalAveragePooling2D()(rescale(patches, 6)))
    network = keras.Model(patches, output)
    kernel = np.zeros((3, 1), np.float32)
    kernel[channel] = -20.0
    network.get_layer("logit").set_weights([kernel, np.array([11.0], np.float32)])
    return network


def versions(workspace: Workspace) -> int:
    """Count the registered versions."""
    return len(client(workspace).search_model_versions(f"name = '{NAME}'"))


def registered(workspace: Workspace) -> dict[str, str]:
    """Return the tags of the registered model itself."""
    return dict(client(workspace).get_registered_model(NAME).tags)


def kept(workspace: Workspace, number: str, name: str, scratch: Path) -> Path:
    """Download a file that a version's run keeps for it."""
    held = tags(workspace, number)
    return Path(client(workspace).download_artifacts(held["run_id"], f"{held['kept']}/{name}", str(scratch)))


class Killed(BaseException):
    """Stands for the end of the process: nothing of ours catches it."""
