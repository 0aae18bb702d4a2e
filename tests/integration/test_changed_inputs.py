"""What `dvc.lock` says that a network was trained with is what it was trained with, whatever is edited meanwhile."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import mlflow
import yaml

from tests.builders.checkouts import Checkout

Make = Callable[..., Checkout]
STAGE = "train@idc-cancernet"


def log_of_training(project: Checkout, **edit: Any) -> str:
    """Reproduce the training, with an edit of `params.yaml` after its first epoch; returns the log."""
    child = project.start(sys.executable, "-m", "dvc", "repro", STAGE)
    assert child.stdout is not None
    lines = []
    for line in child.stdout:
        lines.append(line)
        if "epoch 1/2:" in line:
            project.change(**edit)
    child.wait()
    return "".join(lines)


def test_an_edit_meanwhile_is_not_recorded_and_undone_the_training_ends_at_once(checkout: Make) -> None:
    project = checkout()
    project.dvc("repro", "split@idc", "weights@cancernet")
    before = (project.root / "params.yaml").read_text()
    log = log_of_training(project, seed=43)
    assert "seed (42 to 43) in params.yaml changed while it ran" in log
    assert "Traceback" not in log
    assert STAGE not in yaml.safe_load((project.root / "dvc.lock").read_text())["stages"]
    assert not (project.root / "models/idc/cancernet/model.keras").exists()

    (project.root / "params.yaml").write_text(before)
    log = log_of_training(project)
    assert "resuming after epoch 2 of 2" in log
    assert "epoch 1/2:" not in log
    recorded = yaml.safe_load((project.root / "dvc.lock").read_text())["stages"][STAGE]
    assert recorded["params"]["params.yaml"]["seed"] == 42
    mlflow.set_tracking_uri(f"sqlite:///{project.root}/mlflow.db")
    (run,) = mlflow.search_runs(experiment_names=["histopipe-idc"], output_format="list")
    assert run.info.status == "FINISHED"
    assert "dropped" not in run.data.tags
    assert project.dvc("status", STAGE).stdout.strip() == "Data and pipelines are up to date."
