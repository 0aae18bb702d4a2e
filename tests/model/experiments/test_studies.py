"""One fold or seed: the main run's training with another split or seed, in a folder and an MLflow run of its own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
from mlflow.entities import Run

from histopipe.core.files import read_json
from histopipe.core.params import Params, parse_params
from histopipe.core.workspace import Workspace
from histopipe.data.splitting.stage import split
from histopipe.experiments.studies.evaluate_stage import EVALUATION_FILES, evaluate_variant
from histopipe.experiments.studies.split_stage import split_variant
from histopipe.experiments.studies.train_stage import MODEL_FILES, train_variant
from histopipe.experiments.studies.workspace import SETTINGS_FILE
from histopipe.ingest.stage import ingest
from histopipe.tracking.stores import current_client, prepare_experiment
from histopipe.training.stage import train
from tests.builders.archives import idc_members, write_zip


@pytest.fixture
def params(content: dict[str, Any]) -> Params:
    content["train"]["deterministic"] = True
    content["quick"] = {"max_epochs": 2, "max_image_size": 16}
    content["split"]["folds"] = 3
    content["evaluate"]["resamples"] = 100
    return parse_params(content)


@pytest.fixture
def ready(workspace: Workspace, params: Params) -> Workspace:
    write_zip(workspace.raw("idc") / "archive.zip", idc_members(cases=12, patches=12))
    ingest("idc", params, workspace)
    split("idc", params, workspace)
    return workspace


def run_variant(name: str, params: Params, workspace: Workspace) -> dict[str, Any]:
    """What DVC's three stages of a variant do, one after the other."""
    split_variant("idc", "cancernet", name, params, workspace)
    train_variant("idc", "cancernet", name, params, workspace)
    return evaluate_variant("idc", "cancernet", name, params, workspace)


def runs(workspace: Workspace) -> dict[str, Run]:
    experiment = prepare_experiment(workspace, "idc")
    found = current_client().search_runs([experiment])
    assert len({run.info.run_name for run in found}) == len(found)
    return {str(run.info.run_name): run for run in found}


def die_after_an_epoch(workspace: Workspace, name: str, start: Any) -> str:
    """Interrupt a training once its first epoch is saved; as after a real kill, MLflow takes the run for running."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("histopipe.training.stage.log_epochs", interrupt)
        start()
    run_id = str(runs(workspace)[name].info.run_id)
    current_client().update_run(run_id, status="RUNNING")
    return run_id


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_main_run_and_killed_folds_leave_one_another_alone(ready: Workspace, params: Params) -> None:
    before = ready.split("idc").read_bytes()
    main = die_after_an_epoch(ready, "cancernet", lambda: train("idc", "cancernet", params, ready))
    fold = die_after_an_epoch(ready, "cancernet fold 0", lambda: run_variant("fold-0", params, ready))
    run_variant("fold-1", params, ready)
    states = {name: run.info.status for name, run in runs(ready).items()}
    assert states == {"cancernet": "RUNNING", "cancernet fold 0": "RUNNING", "cancernet fold 1": "FINISHED"}

    resumed = run_variant("fold-0", params, ready)
    assert resumed["run_id"] == fold
    assert train("idc", "cancernet", params, ready)["run_id"] == main
    found = runs(ready)
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    for run in found.values():
        steps = current_client().get_metric_history(run.info.run_id, "train/loss")
        assert [metric.step for metric in steps] == [1, 2]
    assert found["cancernet fold 0"].data.tags["split_scheme"] == "kfold"
    assert "study" not in found["cancernet"].data.tags
    assert ready.split("idc").read_bytes() == before
    check_folder(ready)


def check_folder(workspace: Workspace) -> None:
    folder = workspace.variant_folder("idc", "cancernet", "fold-0")
    assert {path.name for path in folder.iterdir()} == {"split.csv", SETTINGS_FILE, *MODEL_FILES, *EVALUATION_FILES}
    logged = current_client().list_artifacts(read_json(folder / "run.json")["run_id"], "plots")
    assert {"plots/roc.png"} <= {picture.path for picture in logged}
    assert "plots/gallery.png" not in {picture.path for picture in logged}, "variants aren't explained"
    assert read_json(folder / "metrics.json")["run_id"] == read_json(folder / "run.json")["run_id"]
    predictions = pd.read_parquet(folder / "predictions.parquet")
    tested = set(predictions.loc[predictions["split"] == "test", "case_id"])
    record = read_json(folder / "run.json")
    assert len(tested) == 4
    assert not tested & {*record["train_cases"], *record["validation_cases"]}


def test_a_seed_is_what_the_main_run_with_that_seed_gives(ready: Workspace, params: Params, tmp_path: Path) -> None:
    run_variant("seed-7", params, ready)
    folder = ready.variant_folder("idc", "cancernet", "seed-7")
    other = Workspace(tmp_path / "other")
    shutil.copytree(ready.store("idc"), other.store("idc"))
    with_seed = params.model_copy(update={"seed": 7})
    split("idc", with_seed, other)
    train("idc", "cancernet", with_seed, other)
    assert (folder / "split.csv").read_bytes() == other.split("idc").read_bytes()
    ours, theirs = (
        keras.saving.load_model(path / "model.keras").get_weights()
        for path in (folder, other.model("idc", "cancernet"))
    )
    for one, another in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, another)
