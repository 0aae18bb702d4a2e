"""Folds and seeds on request, by real `dvc repro` on tiny synthetic data."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import psutil
import pytest

from tests.builders.checkouts import Checkout, stages_run
from tests.integration.loaded_code import needless_code, unnamed_code

Make = Callable[..., Checkout]
STUDIES = {
    "variants": ["fold-0", "fold-1", "fold-2", "seed-1", "scheme-random", "size-4"],
    "summaries": ["folds", "seeds", "schemes", "sizes"],
}
TINY = {"max_epochs": 1, "max_patches": 200, "max_image_size": 16}
VARIANT_STAGES = ("split", "train", "evaluate")
PREPARING = ("locate", "fetch", "ingest", "split", "weights")
KEPT = {
    "history.csv",
    "metrics.json",
    "model.keras",
    "operating_point.json",
    "predictions.parquet",
    "run.json",
    "split.csv",
    "variant.json",
}


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def runs(project: Checkout) -> list[Any]:
    mlflow.set_tracking_uri(f"sqlite:///{project.root}/mlflow.db")
    return list(mlflow.search_runs(experiment_names=["histopipe-idc"], output_format="list"))


def test_folds_are_trained_and_summed_up_by_themselves(checkout: Make) -> None:
    """The main pipeline's training isn't started for them; the evaluation alone for another threshold."""
    studies = {"variants": STUDIES["variants"][:3], "summaries": ["folds"]}
    project = checkout(studies=studies, quick=TINY, split={"folds": 3}, evaluate={"resamples": 200})
    ran = stages_run(project.dvc("repro", "study@idc-folds").stdout)
    assert {stage for stage in ran if stage.split("@")[0] not in PREPARING} == {
        *(f"{stage}_variant@idc-cancernet-fold-{fold}" for stage in VARIANT_STAGES for fold in range(3)),
        "study@idc-folds",
    }
    assert unnamed_code(project.root) == {}
    assert needless_code(project.root) == {}
    check_folds(project)
    check_summary(project)
    assert stages_run(project.dvc("repro", "study@idc-folds").stdout) == []
    project.change(split={"scheme": "kfold"})
    project.dvc("repro", "split")
    split = project.dvc("repro", *(f"split_variant@idc-cancernet-fold-{fold}" for fold in range(3)))
    assert "Running stage" in split.stdout
    assert not [stage for stage in read_status(project) if "_variant@" in stage]  # the same under every scheme
    project.change(evaluate={"threshold": "f1"})
    assert {stage for stage in read_status(project) if "_variant@" in stage} == {
        f"evaluate_variant@idc-cancernet-fold-{fold}" for fold in range(3)
    }


@pytest.mark.long
def test_every_study_is_trained_and_summed_up(checkout: Make) -> None:
    project = checkout(studies=STUDIES, quick=TINY, split={"folds": 3}, evaluate={"resamples": 200})
    ran = set(stages_run(project.dvc("repro", "study").stdout))
    assert not [stage for stage in ran if stage.split("@")[0] in ("train", "evaluate")]
    assert {f"train_variant@idc-cancernet-{name}" for name in STUDIES["variants"]} <= ran
    check_folds(project)
    check_seed(project)
    check_summary(project)
    check_runs(project)
    root = project.root / "studies"
    assert read(root / "idc/cancernet/scheme-random/metrics.json")["leaky"]
    assert len(read(root / "idc/cancernet/size-4/run.json")["train_cases"]) == 4
    for name in STUDIES["summaries"]:
        assert "cancernet" in (root / "summaries/idc" / name / "summary.md").read_text()
        assert (root / "summaries/idc" / name / "summary.png").stat().st_size > 10_000
    assert stages_run(project.dvc("repro", "study").stdout) == []
    project.change(split={"scheme": "kfold"})
    project.dvc("repro", "split", "split_variant@idc-cancernet-scheme-random")
    stale = read_status(project)
    assert not [stage for stage in stale if stage.endswith("scheme-random")]  # it has a scheme of its own


def read_status(project: Checkout) -> dict[str, Any]:
    shown: dict[str, Any] = json.loads(project.dvc("status", "--json").stdout)
    return shown


def check_folds(project: Checkout) -> None:
    tested = []
    for fold in range(3):
        folder = project.root / f"studies/idc/cancernet/fold-{fold}"
        assert {path.name for path in folder.iterdir()} - {".gitignore"} == KEPT
        split = pd.read_csv(folder / "split.csv", dtype=str).set_index("case_id")["split"]
        predictions = pd.read_parquet(folder / "predictions.parquet")
        cases = set(predictions.loc[predictions["split"] == "test", "case_id"])
        assert cases == set(split.index[split == "test"])
        assert set(read(folder / "run.json")["train_cases"]) == set(split.index[split == "train"])
        tested += sorted(cases)
    assert sorted(tested) == sorted(split.index)  # every case once
    assert not (project.root / ".checkpoints/studies/folds/idc/cancernet/0/model").exists()


def check_seed(project: Checkout) -> None:
    """What the seed variant split is what the split stage would have given with that seed."""
    mine = (project.root / "studies/idc/cancernet/seed-1/split.csv").read_text()
    main = (project.root / "data/splits/idc.csv").read_text()
    assert mine != main
    assert "split@idc" not in read_status(project)  # data/splits is as its stage left it


def check_summary(project: Checkout) -> None:
    folds = read(project.root / "studies/summaries/idc/folds/summary.json")
    (row,) = folds["ranking"]
    values = [row["variants"][str(fold)]["test"]["roc_auc"]["value"] for fold in range(3)]
    mean = row["mean"]["roc_auc"]
    assert mean["value"] == pytest.approx(sum(values) / 3)
    assert mean["low"] < mean["value"] < mean["high"]
    folder = project.root / "studies/summaries/idc/folds"
    assert "cancernet" in (folder / "summary.md").read_text()
    assert (folder / "summary.png").stat().st_size > 10_000


def check_runs(project: Checkout) -> None:
    found = {run.info.run_name: run for run in runs(project)}
    assert set(found) == {
        *(f"cancernet fold {number}" for number in range(3)), "cancernet seed 1", "cancernet scheme random",
        "cancernet size 4", *(f"{study} summary" for study in STUDIES["summaries"]),
    }  # fmt: skip
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert found["cancernet seed 1"].data.tags["study"] == "seeds"
    assert found["cancernet seed 1"].data.params["seed"] == "1"
    tags = found["cancernet fold 2"].data.tags
    assert (tags["study"], tags["variant"], tags["split_scheme"]) == ("folds", "2", "kfold")
    assert "dvc_split" not in tags  # it was not trained on data/splits/idc.csv
    assert "test/roc_auc" in found["cancernet fold 2"].data.metrics
    assert found["cancernet scheme random"].data.tags["leaky"] == "true"


@pytest.mark.long
def test_a_killed_fold_resumes_its_own_run(checkout: Make) -> None:
    """Two folds are killed mid-training; each carries on in its own run, and neither closes the other's."""
    quick = TINY | {"max_epochs": 30, "max_patches": 400}
    project = checkout(
        studies={"variants": ["fold-0", "fold-1"]}, quick=quick, split={"folds": 3}, evaluate={"resamples": 200}
    )
    project.dvc("repro", "split_variant", "weights")
    for fold in (0, 1):
        kill_fold(project, fold)
    before = {run.info.run_name: run.info.run_id for run in runs(project)}
    assert set(before) == {"cancernet fold 0", "cancernet fold 1"}
    time.sleep(3)  # seconds that an orphan has to end
    done = project.dvc("repro", "train_variant")
    assert done.stdout.count("resuming after epoch") == 2
    after = {run.info.run_name: run for run in runs(project)}
    assert {name: run.info.run_id for name, run in after.items()} == before
    assert {run.info.status for run in after.values()} == {"FINISHED"}
    for run in after.values():
        steps = mlflow.MlflowClient().get_metric_history(run.info.run_id, "train/loss")
        assert [metric.step for metric in steps] == list(range(1, 31))


def kill_fold(project: Checkout, fold: int) -> None:
    """Start one fold under `dvc` and kill that process alone once an epoch is saved."""
    log = project.root / f"killed{fold}.log"
    with log.open("w") as stream:
        command = [sys.executable, "-m", "dvc", "repro", "--single-item", f"train_variant@idc-cancernet-fold-{fold}"]
        dvc = psutil.Popen(command, cwd=project.root, env=project.environment, stdout=stream, stderr=stream)
    checkpoint = project.root / f".checkpoints/studies/folds/idc/cancernet/{fold}/checkpoint.npz"
    deadline = time.monotonic() + 240
    while not checkpoint.exists():
        assert dvc.poll() is None, log.read_text()[-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(dvc.pid, signal.SIGKILL)
    dvc.wait()


@pytest.mark.long
def test_the_flow_leaves_nothing_for_dvc_to_do(checkout: Make) -> None:
    studies = {"variants": ["fold-0", "fold-2", "seed-1"], "summaries": ["folds", "seeds"]}
    project = checkout(studies=studies, quick=TINY, split={"folds": 3}, evaluate={"resamples": 200})
    project.run(sys.executable, "-m", "flows.studies", "--folds")
    summary = read(project.root / "studies/summaries/idc/folds/summary.json")
    assert list(summary["ranking"][0]["variants"]) == ["0", "2"]
    assert not (project.root / "studies/idc/cancernet/seed-1").exists()
    assert stages_run(project.dvc("repro", "--single-item", "study@idc-folds").stdout) == []
    tags = {run.info.run_name: run.data.tags for run in runs(project)}
    assert tags["cancernet fold 2"]["prefect_flow_run"]
