"""Only `dvc` is killed: its trainer must go too, and the same command carries on at the epoch it had reached."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
import signal
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import mlflow
import numpy as np
import pandas as pd
import psutil
import pytest

from histopipe.core.dvc import remove_damaged_rwlock
from histopipe.core.workspace import Workspace
from tests.builders.checkouts import Checkout
from tests.builders.faults import trainers

Make = Callable[..., Checkout]
LONGER = {"max_epochs": 6, "max_patches": 320, "max_image_size": 24}


def epochs_done(project: Checkout) -> int:
    path = project.root / ".checkpoints/idc/cancernet/checkpoint.npz"
    if not path.exists():
        return 0
    with np.load(path, allow_pickle=False) as arrays:
        return len(json.loads(arrays["progress"].tobytes())["history"])


def history(project: Checkout) -> pd.DataFrame:
    table = pd.read_csv(project.root / "models/idc/cancernet/history.csv")
    return table.drop(columns=["seconds", "patches_per_second"])


def weights(project: Checkout) -> bytes:
    """Every weight of the network, bit for bit."""
    with zipfile.ZipFile(project.root / "models/idc/cancernet/model.keras") as archive:
        stored = h5py.File(io.BytesIO(archive.read("model.weights.h5")))
        arrays: list[bytes] = []
        stored.visititems(lambda name, item: arrays.append(item[()].tobytes()) if hasattr(item, "shape") else None)
    assert len(arrays) > 30
    return b"".join(arrays)


def start_training(project: Checkout, log: Path) -> psutil.Popen:
    with log.open("w") as stream:
        command = [sys.executable, "-m", "dvc", "repro", "train"]
        return psutil.Popen(command, cwd=project.root, env=project.environment, stdout=stream, stderr=stream)


def kill_after(project: Checkout, epochs: int) -> None:
    """Start `dvc repro` and kill that process alone when so many epochs are saved."""
    log = project.root / "killed.log"
    dvc = start_training(project, log)
    deadline = time.monotonic() + 240
    while epochs_done(project) < epochs:
        assert dvc.poll() is None, log.read_text()[-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(dvc.pid, signal.SIGKILL)
    dvc.wait()


def check_resumed(project: Checkout, epochs: int) -> None:
    """Run the same command at once: one live trainer, which carries on."""
    log = project.root / "resumed.log"
    dvc, began, counts = start_training(project, log), time.monotonic(), []
    while dvc.poll() is None:
        if time.monotonic() - began > 3:  # seconds that the killed one's trainer has to end
            counts.append(len(trainers(project)))
        time.sleep(0.1)
    assert dvc.wait() == 0, log.read_text()[-3000:]
    assert max(counts) == 1
    done = re.search(r"resuming after epoch (\d+) of 6", log.read_text())
    assert done is not None
    assert int(done[1]) >= epochs


@pytest.mark.parametrize("epochs", [2])
def test_the_same_command_carries_on(checkout: Make, epochs: int) -> None:
    project = checkout(train={"deterministic": True}, quick=LONGER)
    project.dvc("repro", "train")
    expected = history(project), weights(project)
    fresh = checkout(train={"deterministic": True}, quick=LONGER)
    kill_after(fresh, epochs)
    check_resumed(fresh, epochs)
    pd.testing.assert_frame_equal(history(fresh), expected[0], check_exact=True)
    assert weights(fresh) == expected[1]
    mlflow.set_tracking_uri(f"sqlite:///{fresh.root}/mlflow.db")
    (run,) = mlflow.search_runs(experiment_names=["histopipe-idc"], output_format="list")
    assert run.info.status == "FINISHED"
    steps = [metric.step for metric in mlflow.MlflowClient().get_metric_history(run.info.run_id, "train/loss")]
    assert steps == [1, 2, 3, 4, 5, 6]


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_many_kills_at_random_moments_change_nothing(checkout: Make) -> None:
    """From start-up to evaluation, whatever is running: the same command carries on, and the numbers are the same."""
    moments = random.Random(7)
    project = checkout(train={"deterministic": True}, quick=LONGER)
    project.dvc("repro")
    expected = history(project), graded(project)
    killed = checkout(train={"deterministic": True}, quick=LONGER)
    for _ in range(15):
        remove_damaged_rwlock(Workspace(killed.root))  # as `make repro` does
        dvc = start_pipeline(killed)
        with contextlib.suppress(psutil.TimeoutExpired):
            dvc.wait(moments.uniform(1, 16))
            break
        os.kill(dvc.pid, signal.SIGKILL)
        dvc.wait()
    remove_damaged_rwlock(Workspace(killed.root))
    killed.dvc("repro")
    pd.testing.assert_frame_equal(history(killed), expected[0], check_exact=True)
    assert graded(killed) == expected[1]
    assert not list(killed.root.glob("data/**/*.part"))
    mlflow.set_tracking_uri(f"sqlite:///{killed.root}/mlflow.db")
    runs = mlflow.search_runs(experiment_names=["histopipe-idc"], output_format="list")
    assert [run.info.status for run in runs] == ["FINISHED"]


def start_pipeline(project: Checkout) -> psutil.Popen:
    with (project.root / "killed.log").open("a") as log:
        command = [sys.executable, "-m", "dvc", "repro"]
        return psutil.Popen(command, cwd=project.root, env=project.environment, stdout=log, stderr=log)


def graded(project: Checkout) -> object:
    return json.loads((project.root / "evaluations/idc/cancernet/metrics.json").read_text())["test"]
