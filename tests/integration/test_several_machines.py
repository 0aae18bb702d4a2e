"""The pipeline through shared servers and over two workers, each with a clone of its own."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
import yaml

from benchmarks.checkouts import NO_FLOORS, commit_all
from tests.builders import compose
from tests.builders.checkouts import Checkout
from tests.builders.shared_servers import Shared, champion, cloned, iterate_runs, with_remote, workers

Make = Callable[..., Checkout]
SECRETS = tuple(text.rpartition(":")[2] for text in compose.PLANTED.values())


def everything_said(folder: Path, shared: Shared) -> str:
    """All that logs, Prefect and MLflow hold in words."""
    logs = "".join(path.read_text(errors="replace") for path in folder.rglob("*.log"))
    told = [shared.ask(what) for what in ("flow_runs", "task_runs", "artifacts", "deployments")]
    lines: list[Any] = []
    while True:
        page = {"limit": 200, "offset": len(lines)}
        found = requests.post(f"{shared.prefect}/logs/filter", json=page, timeout=30, auth=shared.credentials).json()
        lines += found
        if len(found) < page["limit"]:
            break
    kept = [run.to_dictionary() for run in iterate_runs(shared)]
    return logs + json.dumps([told, lines, kept], default=str)


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.long)])
def test_two_workers_ingest_and_train_for_a_third_clone_through_shared_servers(
    checkout: Make, shared: Shared, tmp_path: Path, whole: bool
) -> None:
    """The whole of it trains a network on each, and again on a clone that never held half of it, and on new data."""
    networks = ["cancernet", "resnet"] if whole else ["cancernet"]
    project = with_remote(cells(checkout, architectures=networks), shared)
    clones = [cloned(project, tmp_path / f"clone{number}") for number in range(2)]
    with workers(tmp_path, clones) as address:
        run_flow(project, address, tmp_path)
        assert sorted(parts_of(tmp_path, clone) for clone in clones) == [["1-2"], ["2-2"]]
        trained_at = [
            clone.root.name
            for name in networks
            for clone in clones
            if f"train malaria {name}" in stages_run(tmp_path, clone)
        ]
        assert len(trained_at) == len(set(trained_at)) == len(networks)  # each on a clone of its own, and once
    assert "2 of 2 shards were decoded before" in (tmp_path / "flow.log").read_text()
    first = iterate_runs(shared)
    assert [run.info.status for run in first] == ["FINISHED"] * len(networks)
    assert all(run.info.artifact_uri.startswith("mlflow-artifacts:/") for run in first)
    assert champion(shared) == "1"
    for name in networks:
        assert (project.root / "models/malaria" / name / "model.keras").exists()
    check_ingested_as_alone(project, clones)
    assert "didn't change" in project.dvc("repro").stdout
    assert "Running stage" not in project.dvc("repro").stdout

    if whole:
        train_again(project, clones[0], shared, tmp_path)
    assert {run["state_type"] for run in shared.ask("flow_runs")} == {"COMPLETED"}
    said = everything_said(tmp_path, shared)
    assert all(f"train-malaria-{name}" in said for name in networks)
    assert not [secret for secret in SECRETS if secret in said]


def cells(checkout: Make, **sections: Any) -> Checkout:
    """A checkout with two shards of malaria cells, which two workers share."""
    return checkout(datasets=["malaria"], promotion=NO_FLOORS, flow={"part_shards": 1}, **sections)


def parts_of(folder: Path, clone: Checkout) -> list[str]:
    """The parts that the worker of a clone ingested."""
    found = re.findall(r"\.checkpoints/ingest/malaria/[0-9a-f]{64}/(\d+-\d+)\b", stages_run(folder, clone))
    return sorted(set(found))


def check_ingested_as_alone(project: Checkout, clones: list[Checkout]) -> None:
    """The store has the hash that an ingest on one machine gives, and no part is left anywhere."""
    together = (project.root / "dvc.lock").read_text()
    for clone in (project, *clones):
        assert not list(clone.root.glob(".checkpoints/ingest/**/*.npy"))
    done = project.dvc("repro", "--force", "--single-item", "ingest@malaria")
    assert "Running stage 'ingest@malaria'" in done.stdout
    assert "were decoded before" not in done.stdout
    assert (project.root / "dvc.lock").read_text() == together


@pytest.mark.long
@pytest.mark.parametrize("survivors", [1, 0])
def test_a_worker_killed_while_it_ingests_changes_nothing(
    checkout: Make, shared: Shared, tmp_path: Path, survivors: int
) -> None:
    """Another worker takes over its part; where none is left, the flow's clone does."""
    project = with_remote(cells(checkout, architectures=["cancernet"], synthetic=MORE_CELLS), shared)
    clones = [cloned(project, tmp_path / f"clone{number}") for number in range(1 + survivors)]
    with workers(tmp_path, clones) as address:
        project.change(flow={"task_runner": "dask", "scheduler": address})
        flow = project.start(sys.executable, "-c", INGEST_ALONE)
        kill(ingesting_worker(clones[0]))
        said, _ = flow.communicate(timeout=600)
        assert flow.returncode == 0, said[-4000:]
    assert ("are ingested here" in said) == (survivors == 0)
    assert ("4 of 4 shards were decoded before" in said) == (survivors == 1)
    check_ingested_as_alone(project, clones[1:])


@pytest.mark.long
def test_a_part_refused_by_one_worker_goes_to_another(checkout: Make, shared: Shared, tmp_path: Path) -> None:
    project = with_remote(cells(checkout, architectures=["cancernet"], synthetic=MORE_CELLS), shared)
    clones = [cloned(project, tmp_path / f"clone{number}") for number in range(2)]
    commit_all(clones[0].root)  # another commit
    with workers(tmp_path, clones) as address:
        project.change(flow={"task_runner": "dask", "scheduler": address})
        done = project.run(sys.executable, "-c", INGEST_ALONE)
    said = done.stdout + done.stderr
    assert f"the clone at {clones[0].root} is at commit" in said
    assert "4 of 4 shards were decoded before" in said
    assert parts_of(tmp_path, clones[1]) == ["1-4", "2-4", "3-4", "4-4"]
    check_ingested_as_alone(project, clones)


INGEST_ALONE = """
from prefect import flow
from flows.pipeline import prepare
from tasks.parallel import ParallelRunner

@flow(task_runner=ParallelRunner())
def only_data():
    prepare("malaria")

only_data()
"""
MORE_CELLS = {"cases": 20, "patches": 2600, "nested_copy": True}


def ingesting_worker(clone: Checkout) -> psutil.Process:
    """The worker of a clone, as soon as its child decodes a part."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if Path(process.cwd()) == clone.root and "--part" in process.cmdline() and half_written(clone):
                    parent = process.parent()
                    assert parent is not None
                    return parent
        time.sleep(0.02)
    pytest.fail("no part was ingested")


def half_written(clone: Checkout) -> bool:
    return bool(list(clone.root.glob(".checkpoints/ingest/malaria/*/.*.part/*.npy")))


def kill(worker: psutil.Process) -> None:
    assert "distributed.cli.dask_worker" in worker.cmdline()
    worker.kill()


def train_again(project: Checkout, clone: Checkout, shared: Shared, tmp_path: Path) -> None:
    """Run the flow with one worker alone: first with nothing new, then with more cases."""
    first = iterate_runs(shared)
    with workers(tmp_path, [clone], ("--resources", "GPU=1")) as address:  # half of it was never in this clone
        run_flow(project, address, tmp_path)
        assert len(iterate_runs(shared)) == 2  # nothing had changed
        project.change(synthetic={"cases": 24, "patches": 1000, "nested_copy": True})
        run_flow(project, address, tmp_path)
    second = [run for run in iterate_runs(shared) if run.info.run_id not in {one.info.run_id for one in first}]
    assert [run.info.status for run in second] == ["FINISHED", "FINISHED"]
    lock = yaml.safe_load((project.root / "dvc.lock").read_text())["stages"]
    (store,) = lock["ingest@malaria"]["outs"]
    for run in second:
        assert run.data.tags["dvc_store"] == store["md5"]
        trained = lock[f"train@malaria-{run.data.tags['architecture']}"]["deps"]
        assert next(one["md5"] for one in trained if one["path"] == "data/store/malaria") == store["md5"]
    assert {int(run.data.params["train_patches"]) for run in second} == {320}


def run_flow(project: Checkout, scheduler: str, folder: Path) -> None:
    """Run the pipeline on the scheduler's workers; nothing is trained here."""
    project.change(flow={"task_runner": "dask", "scheduler": scheduler})
    done = project.run(sys.executable, "-m", "flows.pipeline")
    with (folder / "flow.log").open("a") as log:
        log.write(done.stdout + done.stderr)
    assert not re.search(r"Running stage '(train|evaluate)", done.stdout + done.stderr)


def test_a_worker_with_other_code_refuses(checkout: Make, shared: Shared, tmp_path: Path) -> None:
    project = with_remote(checkout(), shared)
    clone = cloned(project, tmp_path / "clone0")
    commit_all(clone.root)  # another commit
    with workers(tmp_path, [clone]) as address:
        project.change(flow={"task_runner": "dask", "scheduler": address})
        done = project.run(sys.executable, "-m", "flows.pipeline", check=False)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"histopipe: the clone at {clone.root} is at commit ") and "`git checkout " in last
    tries = [run["run_count"] for run in shared.ask("task_runs") if run["name"].startswith("train-idc")]
    assert tries == [1]  # bad input stays bad


def test_whom_a_server_refuses_is_told_in_one_line_and_at_once(checkout: Make, shared: Shared) -> None:
    project = checkout()
    project.dvc("repro", "ingest@idc", "split@idc", "weights@cancernet")
    wrong = shared.surroundings | {"MLFLOW_TRACKING_PASSWORD": "wrong", "PREFECT_API_AUTH_STRING": "admin:wrong"}
    nobody = Checkout(project.root, {**project.environment, **wrong})
    refusals = {
        "MLflow": f"MLflow at {shared.mlflow.rpartition(':')[0]} refuses: set MLFLOW_TRACKING_USERNAME and",
        "Prefect": f"Prefect's server at {shared.prefect} refuses: set PREFECT_API_AUTH_STRING",
    }
    for command, who in (
        (["histopipe", "train", "idc", "cancernet"], "MLflow"),
        (["flows.pipeline"], "Prefect"),
        (["flows.limits"], "Prefect"),
        (["flows.serve"], "Prefect"),
    ):
        done = nobody.run(sys.executable, "-m", *command, check=False)
        assert done.returncode == 2, done.stderr[-2000:]
        assert "Traceback" not in done.stderr, done.stderr[-2000:]
        assert done.stderr.strip().splitlines()[-1].startswith(f"histopipe: {refusals[who]}")

    half = {"PREFECT_API_AUTH_STRING": shared.surroundings["PREFECT_API_AUTH_STRING"]}
    done = Checkout(project.root, {**nobody.environment, **half}).run(
        sys.executable, "-m", "flows.pipeline", check=False
    )
    assert done.returncode == 2, done.stderr[-2000:]
    assert done.stderr.strip().splitlines()[-1].startswith(f"histopipe: train@idc-cancernet: {refusals['MLflow']}")
    tries = [run["run_count"] for run in shared.ask("task_runs") if run["name"].startswith("train-idc")]
    assert tries == [1]  # trying again changes nothing

    found = nobody.histopipe("doctor", check=False).stdout
    for remedy in ("MLFLOW_TRACKING_USERNAME", "PREFECT_API_AUTH_STRING"):
        assert remedy in found


def stages_run(folder: Path, clone: Checkout) -> str:
    """What the worker of a clone ran, as its log has it."""
    return (folder / f"worker{clone.root.name[-1]}.log").read_text(errors="replace")
