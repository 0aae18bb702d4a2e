"""Four equal trainings on two Dask workers compared with one, each worker with its own clone and one core.

Everything is real: a Prefect server, Dask's scheduler, clones, a DVC remote from which workers pull the store and to
which they push what they trained. Counted is the time from the first training's start to the last one's end, as
Prefect's server has it, and so what travels for it, and the evaluations that a worker takes in between: three where it
is alone, one each where there are two.

    python -m benchmarks.workers
"""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import click
import requests
import yaml

from benchmarks.checkouts import NO_FLOORS, change_params, commit_all, copy_project, environment
from benchmarks.measuring import alternate, medians, report, run_command

TRAININGS = ("one", "two", "three", "four")
ONE_CORE = dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"), "1")
START_SECONDS = 120.0


def trained_by(count: int, folder: Path, epochs: int, patches: int) -> dict[str, float]:
    """Measure the seconds of the four trainings on that many workers, in new clones."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch, ExitStack() as stack:
        scratch_folder = Path(scratch)
        root = prepared(scratch_folder, epochs, patches)
        server = stack.enter_context(prefect_server(scratch_folder))
        scheduler = stack.enter_context(dask(scratch_folder, root, count, server))
        change_params(root, flow={"task_runner": "dask", "scheduler": scheduler})
        surroundings = environment(root) | {"PREFECT_API_URL": server}
        whole = run_command([sys.executable, "-m", "flows.pipeline"], root, surroundings)
        return {"seconds": seconds_of_trainings(server), "flow_seconds": round(whole.seconds, 1)}


def prepared(folder: Path, epochs: int, patches: int) -> Path:
    """Make a checkout whose data are split, with four recipes that differ in name alone, and a remote next to it."""
    root = folder / "checkout"
    copy_project(root)
    recipe = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))["recipes"]["cancernet"]
    change_params(
        root,
        architectures=list(TRAININGS),
        recipes={name: recipe | {"architecture": "cancernet"} for name in TRAININGS},
        quick={"max_epochs": epochs, "max_patches": patches, "max_image_size": 48, "weights": "random"},
        synthetic={"cases": 24, "patches": 4 * patches},
        promotion=NO_FLOORS,
    )
    dvc = [sys.executable, "-m", "dvc"]
    run_command([*dvc, "remote", "add", "--default", "shared", str(folder / "remote")], root, environment(root))
    run_command([*dvc, "repro", "split"], root, environment(root))
    commit_all(root)
    return root


@contextmanager
def prefect_server(folder: Path) -> Iterator[str]:
    """Run a Prefect server inside the block; yield its API's address."""
    address = f"http://127.0.0.1:{(port := free_port())}/api"
    command = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with background(command, folder, environment(folder)):
        deadline = time.monotonic() + START_SECONDS
        while not answers(f"{address}/health"):
            if time.monotonic() > deadline:
                raise SystemExit("Prefect's server doesn't start")
            time.sleep(0.5)
        yield address


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(address: str) -> bool:
    """Return true if a server responds at an address."""
    try:
        return requests.get(address, timeout=5).ok
    except requests.RequestException:
        return False


@contextmanager
def dask(folder: Path, root: Path, count: int, server: str) -> Iterator[str]:
    """Run a scheduler and that many workers, each in a clone, inside the block; yield the scheduler's address."""
    from distributed import Client

    address = f"tcp://127.0.0.1:{(port := free_port())}"
    start = ["distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    with ExitStack() as stack:
        stack.enter_context(background(start, folder, environment(root)))
        for number in range(count):
            clone = folder / f"clone{number}"
            subprocess.run(["git", "clone", "--quiet", str(root), str(clone)], check=True)
            command = ["distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard"]
            surroundings = environment(clone) | ONE_CORE | {"PREFECT_API_URL": server}
            stack.enter_context(background(command, clone, surroundings))
        with Client(address, timeout=START_SECONDS) as client:
            client.wait_for_workers(count, timeout=START_SECONDS)
        yield address


@contextmanager
def background(command: Sequence[str], folder: Path, surroundings: Mapping[str, str]) -> Iterator[None]:
    """Run `python -m …` inside the block, without its output."""
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(
        [sys.executable, "-m", *command], cwd=folder, env=dict(surroundings), stdout=quiet, stderr=quiet
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def seconds_of_trainings(server: str) -> float:
    """Return the seconds from the first training's start to the last one's end.

    Raises:
        SystemExit: not all were trained.
    """
    answer = requests.post(f"{server}/task_runs/filter", json={"limit": 200}, timeout=30)
    runs: list[dict[str, Any]] = [run for run in answer.json() if run["name"].startswith("train-")]
    if [run["state_type"] for run in runs] != ["COMPLETED"] * len(TRAININGS):
        raise SystemExit(f"not all were trained: {[(run['name'], run['state_type']) for run in runs]}")
    began, ended = ([datetime.fromisoformat(run[moment]) for run in runs] for moment in ("start_time", "end_time"))
    return round((max(ended) - min(began)).total_seconds(), 1)


@click.command()
@click.option("--rounds", default=3, show_default=True, help="How often each side runs.")
@click.option("--epochs", default=10, show_default=True, help="Of each training.")
@click.option("--patches", default=4000, show_default=True, help="That each training sees.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path(tempfile.gettempdir()) / "histopipe-benchmarks")
def main(rounds: int, epochs: int, patches: int, folder: Path) -> None:
    """Compare one worker and two; the last line is JSON and holds `ratio`, and `share`: two workers' of one's time."""
    folder.mkdir(parents=True, exist_ok=True)
    sides = {name: partial(trained_by, count, folder, epochs, patches) for name, count in (("one", 1), ("two", 2))}
    results = {name: medians(measurements) for name, measurements in alternate(sides, rounds).items()}
    single, double = results["one"]["seconds"], results["two"]["seconds"]
    report(
        "workers",
        ratio=round(single / double, 2),
        share=round(double / single, 3),
        rounds=rounds,
        epochs=epochs,
        **results,
    )


if __name__ == "__main__":
    main()
