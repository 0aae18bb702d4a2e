"""The search flow, killed in mid-training and run again: the same trial goes on, and nothing is counted twice."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mlflow
import psutil
import pytest
import yaml

from tests.builders.checkouts import Checkout

Make = Callable[..., Checkout]
TINY = {"max_epochs": 4, "max_patches": 128, "max_image_size": 16}


def start_flow(project: Checkout, log: Path) -> psutil.Popen:
    command = [sys.executable, "-m", "flows.search", "idc", "cancernet", "--trials", "2"]
    patient = {**project.environment, "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120"}
    with log.open("w") as stream:
        return psutil.Popen(command, cwd=project.root, env=patient, stdout=stream, stderr=stream)


def kill_in_epoch_three(flow: psutil.Popen, log: Path) -> psutil.Process:
    """Kill the flow alone once its second trial has two epochs; returns that trial's process."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and flow.poll() is None:
        second = log.read_text().partition("cancernet trial 1: optimizer")[2]
        if "epoch 2/4: train/loss" in second:
            (trial,) = [child for child in flow.children() if "trial" in child.cmdline()]
            others = [child for child in flow.children() if child != trial]
            os.kill(flow.pid, signal.SIGKILL)
            flow.wait()
            for server in others:  # Prefect's temporary one, which doesn't notice
                server.kill()
            return trial
        time.sleep(0.05)
    pytest.fail(log.read_text()[-3000:])


def trials(project: Checkout) -> dict[int, tuple[str, dict[str, float]]]:
    """State and stored values of every trial."""
    with sqlite3.connect(project.root / "optuna.db") as database:
        states = dict(database.execute("select number, state from trials"))
        query = "select number, param_name, param_value from trials join trial_params using (trial_id)"
        values: dict[int, dict[str, float]] = {number: {} for number in states}
        for number, name, value in database.execute(query):
            values[number][name] = value
    return {number: (state, values[number]) for number, state in states.items()}


def test_a_killed_search_goes_on_with_its_trial_and_writes_the_winner(checkout: Make, tmp_path: Path) -> None:
    project = checkout(quick=TINY)
    refused = project.run(sys.executable, "-m", "flows.search", "idc", "cancernet", check=False)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "is missing: run `dvc repro" in refused.stderr
    project.dvc("repro", "split")

    flow = start_flow(project, tmp_path / "first.log")
    kill_in_epoch_three(flow, tmp_path / "first.log").wait(20)  # the trial ends with its flow
    before = trials(project)
    assert {number: state for number, (state, _) in before.items()} == {0: "COMPLETE", 1: "RUNNING"}

    assert start_flow(project, tmp_path / "second.log").wait(400) == 0, (tmp_path / "second.log").read_text()[-3000:]
    log = (tmp_path / "second.log").read_text()
    resumed = log.partition("cancernet trial 1: optimizer")[2]
    assert "resuming after epoch" in resumed
    assert "epoch 1/4: train/loss" not in resumed
    after = trials(project)
    assert [state for state, _ in after.values()] == ["COMPLETE"] * 2
    assert after[1][1] == before[1][1]

    mlflow.set_tracking_uri(f"sqlite:///{project.root}/mlflow.db")
    runs = mlflow.search_runs(experiment_names=["histopipe-idc"], output_format="list")
    names = {"search cancernet", *(f"cancernet trial {number}" for number in range(2))}
    assert sorted(run.info.run_name for run in runs) == sorted(names)
    assert {run.info.status for run in runs} == {"FINISHED"}
    folder = project.root / "searches/idc/cancernet"
    block = yaml.safe_load((folder / "recipe.yaml").read_text())["recipes"]
    assert block["cancernet_tuned"]["architecture"] == "cancernet"
    assert {path.name for path in folder.iterdir()} == {"recipe.yaml", "search.png", "trials.csv"}

    assert "no trial" not in log
    third = project.histopipe("search", "idc", "cancernet", "--trials", "2", "--name", "better")
    assert "epoch" not in third.stdout  # all there: it only sums up
    assert "better" in yaml.safe_load((folder / "recipe.yaml").read_text())["recipes"]
