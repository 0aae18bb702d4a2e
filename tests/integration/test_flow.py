"""The Prefect flow against a real Prefect server: the same stages, artifacts to look at, nothing trained twice."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import yaml
from prefect.testing.utilities import prefect_test_harness

from flows.pipeline import pipeline
from histopipe.core.workspace import Workspace
from tasks.evaluation import SHOWN_SLIDES
from tests.builders.checkouts import Checkout
from tests.builders.machines import Machine
from tests.builders.servers import ask

Make = Callable[..., Checkout]


def run_flow(project: Checkout, server: str) -> subprocess.CompletedProcess[str]:
    reporting = Checkout(project.root, {**project.environment, "PREFECT_API_URL": server})
    return reporting.run(sys.executable, "-m", "flows.pipeline", "--architectures", "cancernet")


def test_the_flow_trains_once_and_shows_what_came_out(checkout: Make, server: str) -> None:
    project = checkout()
    first = run_flow(project, server)
    assert "idc cancernet epoch 2/2" in first.stderr + first.stdout  # the stage's log is streamed
    record = json.loads((project.root / "models/idc/cancernet/run.json").read_text())
    assert {run["state_type"] for run in ask(server, "flow_runs")} == {"COMPLETED"}
    tasks = sorted(run["name"].split("-")[0] for run in ask(server, "task_runs"))
    assert tasks == ["compare", "evaluate", "fetch", "ingest", "locate", "promote", "split", "train", "weights"]
    found = {artifact["key"]: artifact for artifact in ask(server, "artifacts")}
    artifacts = {key: artifact["type"] for key, artifact in found.items()}
    assert artifacts["ingest-idc"] == "table"
    assert artifacts["comparison-idc"] == "markdown"
    assert found["comparison-idc"]["data"].startswith("**cancernet reaches a ROC AUC of")
    assert "`reports/idc/index.html`" in found["comparison-idc"]["data"]
    assert artifacts["comparison-plot-idc"] == "image"
    assert artifacts["promotion-idc"] == "markdown"
    assert artifacts["epochs-idc-cancernet"] == "progress"
    check_tables(project, found)
    slides = list((project.root / "evaluations/idc/cancernet/figures/slides").iterdir())
    shown = [artifact for key, artifact in found.items() if key.startswith("slide-idc-cancernet-")]
    assert len(shown) == min(len(slides), SHOWN_SLIDES) > 0
    assert all(artifact["data"].startswith("data:image/jpeg;base64,") for artifact in shown)

    assert flow_run_in_mlflow(project) in [run["id"] for run in ask(server, "flow_runs")]

    second = project.run(sys.executable, "-m", "flows.pipeline")  # on the embedded defaults, without a server
    assert "epoch 1/2" not in second.stderr + second.stdout
    assert json.loads((project.root / "models/idc/cancernet/run.json").read_text()) == record
    assert "didn't change" in project.dvc("repro").stdout
    assert "Running stage" not in project.dvc("repro").stdout


def check_tables(project: Checkout, found: dict[str, dict[str, Any]]) -> None:
    """Subgroups and worst cases are shown as they were written."""
    folder = project.root / "evaluations/idc/cancernet"
    subgroups, cases = (json.loads(found[f"{name}-table-idc-cancernet"]["data"]) for name in ("subgroups", "cases"))
    assert [row["level"] for row in subgroups] == pd.read_csv(folder / "subgroups.csv")["level"].tolist()
    written = pd.read_csv(folder / "cases.csv", dtype={"case_id": str})
    assert [row["case_id"] for row in cases] == written["case_id"].head(10).tolist()
    assert [row["accuracy"] for row in cases] == pytest.approx(written["accuracy"].head(10).tolist(), abs=1e-4)


def flow_run_in_mlflow(project: Checkout) -> str:
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{project.root}/mlflow.db")
    (run,) = mlflow.search_runs(experiment_names=["histopipe-idc"], output_format="list")
    return str(run.data.tags["prefect_flow_run"])


class Rivals:
    """Stands in for the stages, and counts the trainings that run at one time."""

    def __init__(self, expected: int) -> None:
        self.most = 0
        self.shared: list[str] = []  # GPUs that two trainings held at one time
        self._now = 0
        self._held: list[str] = []
        self._lock = threading.Lock()
        self._met = threading.Barrier(expected)

    def reproduce(self, stage: str, environment: dict[str, str] | None = None, **_: object) -> None:
        if stage.startswith("train@"):
            gpu = (environment or {})["CUDA_VISIBLE_DEVICES"]
            with self._lock:
                self._now += 1
                self.most = max(self.most, self._now)
                self.shared += [held for held in self._held if held == gpu]
                self._held.append(gpu)
            self._met.wait(60)
            time.sleep(0.3)
            with self._lock:
                self._now -= 1
                self._held.remove(gpu)


@pytest.mark.parametrize(("parallel", "expected"), [(1, 1), (2, 2), ("auto", 2)])
def test_the_flow_keeps_to_train_parallel_however_it_is_started(
    workspace: Workspace,
    content: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    machine: Machine,
    parallel: object,
    expected: int,
) -> None:
    """As from a notebook or a deployment: `pipeline()` is called, not its command. Each training has its own GPU."""
    machine(2)
    names = ["first", "second", "third", "fourth"]
    recipes = dict.fromkeys(names, content["recipes"]["cancernet"])
    own = {"architectures": names, "recipes": recipes, "search": {}, "published": {}}
    changed = content | own | {"train": {"parallel": parallel}}
    workspace.params.write_text(yaml.safe_dump(changed))
    monkeypatch.chdir(workspace.root)
    rivals = Rivals(expected)
    for module in ("training", "evaluation"):
        monkeypatch.setattr(f"tasks.{module}.reproduce", rivals.reproduce)
    monkeypatch.setattr("tasks.training.publish_image", lambda *_: None)
    monkeypatch.setattr("tasks.training.epoch_progress", lambda *_: None)
    monkeypatch.setattr("tasks.evaluation.publish_evaluation", lambda *_: None)
    monkeypatch.setattr("flows.pipeline.prepare", lambda _: [])
    monkeypatch.setattr("flows.pipeline.compare", lambda *_, **__: None)
    monkeypatch.setattr("flows.pipeline.promote", lambda *_, **__: None)
    with prefect_test_harness(server_startup_timeout=120):
        pipeline()
    assert rivals.most == expected
    assert rivals.shared == []
