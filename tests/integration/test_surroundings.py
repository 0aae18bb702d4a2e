"""A full disk, a folder that can't be written, a clock that jumps, rivals in the same checkout: nothing is lost."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pytest

from benchmarks.checkouts import NO_FLOORS, copy_project, environment
from tests.builders.checkouts import SMALL, Checkout

Make = Callable[..., Checkout]
SETTINGS: dict[str, Any] = {"train": {"deterministic": True}, "promotion": NO_FLOORS}
DAY = 86_400


def graded(project: Checkout) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((project.root / "evaluations/idc/cancernet/metrics.json").read_text())
    return content["test"]


def statuses(project: Checkout) -> list[str]:
    mlflow.set_tracking_uri(f"sqlite:///{project.root}/mlflow.db")
    runs = mlflow.search_runs(experiment_names=["histopipe-idc"], output_format="list")
    return [run.info.status for run in runs]


def assert_as_undisturbed(project: Checkout, undisturbed: Checkout) -> None:
    assert graded(project) == graded(undisturbed)
    assert statuses(project) == ["FINISHED"]
    assert not list(project.root.glob("data/**/*.part"))
    assert "Running stage" not in project.dvc("repro").stdout


def mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"needs root to mount a file system ({done.stderr.strip()}): run the tests as root in a container")


@contextmanager
def disk(folder: Path, megabytes: int) -> Iterator[Callable[[int], None]]:
    """A file system of that size on a folder; yields what changes the size."""
    folder.mkdir(parents=True)
    mount("-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder))
    try:
        yield lambda size: mount("-o", f"remount,size={size}m", str(folder))
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_disk_full_at_any_moment_ends_in_a_line_and_room_is_all_it_takes(checkout: Make, tmp_path: Path) -> None:
    """From too small for the archive up to large enough, a little more room each time."""
    undisturbed = checkout(**SETTINGS)
    undisturbed.dvc("repro")
    sizes = random.Random(5)
    with disk(tmp_path / "disk", 1000) as resize:
        project = Checkout(tmp_path / "disk/checkout", environment(tmp_path / "disk/checkout"))
        copy_project(project.root)
        project.change(**SMALL, **SETTINGS)
        used = shutil.disk_usage(project.root).used // 2**20
        full = 0
        for size in range(used + 1, 1000, 3):
            resize(size + sizes.randint(0, 2))
            done = project.dvc("repro", check=False)
            if done.returncode == 0:
                break
            said = done.stdout + done.stderr
            assert re.search(r"[Nn]o space left|disk is full|make room|needs? about", said), said[-3000:]
            assert "Traceback" not in said, said[-3000:]
            full += 1
        assert full >= 5
        assert_as_undisturbed(project, undisturbed)


def test_a_folder_that_cannot_be_written_is_named_and_the_same_command_carries_on(checkout: Make) -> None:
    project = checkout(**SETTINGS)
    project.dvc("repro", "split")
    models = project.root / "models"
    models.mkdir(exist_ok=True)
    mount("--bind", str(models), str(models))
    try:
        mount("-o", "remount,ro,bind", str(models))
        done = project.dvc("repro", "train", check=False)
    finally:
        subprocess.run(["umount", str(models)], check=True)
    said = done.stdout + done.stderr
    assert "Read-only file system: choose a path on a writable disk, then run again" in said, said[-3000:]
    assert "Traceback" not in said
    project.dvc("repro", "train")
    assert statuses(project) == ["FINISHED"]


def with_clock(project: Checkout, clock: Path) -> Checkout:
    """Commands whose clock differs from the machine's by what a file says, at every moment."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    if library is None:
        pytest.skip("needs libfaketime: `apt-get install faketime` brings it")
    jumping = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "NO_FAKE_STAT": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # nor does a kernel let that one jump
    }
    return Checkout(project.root, {**project.environment, **jumping})


@pytest.mark.long
def test_a_clock_that_jumps_back_and_forth_changes_nothing(checkout: Make, tmp_path: Path) -> None:
    undisturbed, plain = checkout(**SETTINGS), checkout(**SETTINGS)
    undisturbed.dvc("repro")
    clock = tmp_path / "clock"
    clock.write_text("+0")
    project, moments = with_clock(plain, clock), random.Random(3)
    with project.start(sys.executable, "-m", "dvc", "repro") as running:
        while running.poll() is None:
            time.sleep(moments.uniform(0.5, 3))
            clock.write_text(f"{moments.randint(-400 * DAY, 400 * DAY):+d}")
        assert running.stdout is not None
        said = running.stdout.read()
    assert running.returncode == 0, said[-3000:]
    assert_as_undisturbed(plain, undisturbed)


def test_two_repros_and_a_flow_at_once_train_once(checkout: Make) -> None:
    """Tasks wait for a stage that another process runs; `dvc repro` may refuse, in DVC's own words."""
    project = checkout(**SETTINGS)
    dvc = (sys.executable, "-m", "dvc", "repro")
    flow = project.start(sys.executable, "-m", "flows.pipeline")
    rivals = [project.start(*dvc) for _ in range(2)]
    said = {process.pid: process.communicate(timeout=900)[0] for process in (*rivals, flow)}
    assert flow.returncode == 0, said[flow.pid][-3000:]
    for rival in rivals:
        refused = re.search(r"is busy, it is being blocked by|Unable to acquire lock", said[rival.pid])
        assert rival.returncode == 0 or refused, said[rival.pid][-3000:]
    assert statuses(project) == ["FINISHED"]
    begun = [
        line for text in said.values() for line in text.splitlines() if re.search(r"\d epochs, \d+ training", line)
    ]
    assert len(begun) == 1
    assert "Running stage" not in project.dvc("repro").stdout
    assert [path.name for path in (project.root / "models/idc").iterdir() if path.is_dir()] == ["cancernet"]
