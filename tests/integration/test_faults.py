"""Servers, workers, flows and stages killed at random moments: the same command carries on to the same numbers."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.checkouts import NO_FLOORS
from tests.builders.checkouts import Checkout
from tests.builders.faults import ServiceManager, processes
from tests.builders.shared_servers import Shared, champion, cloned, iterate_runs, with_remote, workers

Make = Callable[..., Checkout]
NETWORKS = ["cancernet", "resnet"]
LONGER = {"max_epochs": 20, "max_patches": 480, "max_image_size": 24}
SETTINGS: dict[str, Any] = {
    "architectures": NETWORKS,
    "train": {"deterministic": True},
    "quick": LONGER,
    "promotion": NO_FLOORS,
}
SERVERS = {
    "postgres": ("postgres",),
    "mlflow": ("mlflow", "server"),
    "prefect": ("prefect", "server", "start"),
    "scheduler": ("distributed.cli.dask_scheduler",),
    "worker0": ("distributed.cli.dask_worker", "clone0"),
    "worker1": ("distributed.cli.dask_worker", "clone1"),
}
VICTIMS = ("flow", "stage", "dvc", *SERVERS)


@dataclass
class Disturbed:
    """A pipeline over several machines, any part of which may be killed.

    Attributes:
        clones: the flow's first, then the workers'.
        kills: what was killed, in order.
    """

    clones: list[Checkout]
    manager: ServiceManager
    log: Path
    flow: subprocess.Popen[bytes] | None = None
    kills: list[str] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)

    @property
    def folders(self) -> list[Path]:
        return [clone.root for clone in self.clones]

    def start(self) -> None:
        """The one command that a user knows, again."""
        project = self.clones[0]
        with self.log.open("a") as output:
            output.write(f"=== started after {len(self.kills)} kills\n")
            output.flush()
            command = [sys.executable, "-m", "flows.pipeline"]
            self.flow = subprocess.Popen(
                command, cwd=project.root, env=dict(project.environment), stdout=output, stderr=output
            )

    def ended(self) -> int | None:
        assert self.flow is not None
        code = self.flow.poll()
        if code is not None:
            self.ends.append(code)
        return code

    def kill(self, victim: str, pause: float) -> bool:
        """Kill one part, and bring it back after a pause as a service manager does; whether it was there."""
        if victim in SERVERS:
            self.manager.kill(victim, alone=victim.startswith("worker"))
            time.sleep(pause)
            self.manager.restart(victim)
        elif victim == "flow":
            assert self.flow is not None
            self.flow.kill()
            self.flow.wait()
        elif not self._kill_child("dvc" if victim == "dvc" else "histopipe"):
            return False
        self.kills.append(victim)
        self._say(f"killed {victim}")
        return True

    def tend(self) -> None:
        """Bring back what ended because something else was killed."""
        for name in self.manager.tend():
            self._say(f"{name} had ended, and was started again")

    def _kill_child(self, module: str) -> bool:
        for process in processes(self.folders, module):
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
            return True
        return False

    def _say(self, line: str) -> None:
        with self.log.open("a") as output:
            output.write(f"=== {time.strftime('%H:%M:%S')} {line}\n")


def shuffled(moments: random.Random) -> Iterator[str]:
    """Each victim as often as any other, in an order without end."""
    while True:
        yield from moments.sample(VICTIMS, len(VICTIMS))


def disturb(pipeline: Disturbed, kills: int, moments: random.Random, undisturbed: float) -> None:
    """Kill so many parts, at random moments; a flow that ended for it is started again, like a killed one.

    Args:
        pipeline: to be started.
        kills: how many.
        moments: says what and when.
        undisturbed: seconds that the stages take here without kills, by which pauses are measured.
    """
    pipeline.start()
    victims = shuffled(moments)
    victim = next(victims)
    while len(pipeline.kills) < kills:
        time.sleep(moments.uniform(0.01, 0.1) * undisturbed)
        pipeline.tend()
        code = pipeline.ended()
        if code is not None:
            assert code != 0, f"over after {len(pipeline.kills)} kills: the pipeline is too short"
            pipeline.start()
        elif pipeline.kill(victim, moments.uniform(0, 4)):
            victim = next(victims)


def carried_to_its_end(pipeline: Disturbed, patience: float) -> int:
    """Run the command until it ends well, each time for so many seconds at most; how often it had to be started."""
    for attempt in itertools.count(1):
        assert pipeline.flow is not None
        deadline = time.monotonic() + patience
        while (code := pipeline.ended()) is None:
            assert time.monotonic() < deadline, pipeline.log.read_text()[-6000:]
            pipeline.tend()
            time.sleep(1)
        if code == 0:
            return attempt
        assert attempt < 4, pipeline.log.read_text()[-6000:]
        pipeline.start()
    raise AssertionError


def graded(project: Checkout) -> dict[str, Any]:
    paths = {name: project.root / f"evaluations/idc/{name}/metrics.json" for name in NETWORKS}
    return {name: json.loads(path.read_text())["test"] for name, path in paths.items()}


@pytest.mark.long
@pytest.mark.timeout(5400)
def test_thirty_kills_of_any_part_change_nothing(checkout: Make, shared: Shared, tmp_path: Path) -> None:
    undisturbed = checkout(**SETTINGS)
    began = time.monotonic()
    undisturbed.dvc("repro")
    seconds = time.monotonic() - began
    project = with_remote(checkout(**SETTINGS), shared)
    clones = [cloned(project, tmp_path / f"clone{number}") for number in range(2)]
    with workers(tmp_path, clones) as address, ServiceManager(SERVERS, tmp_path) as manager:
        project.change(flow={"task_runner": "dask", "scheduler": address})
        pipeline = Disturbed([project, *clones], manager, tmp_path / "flow.log")
        disturb(pipeline, 30, random.Random(11), seconds)
        carried_to_its_end(pipeline, 600 + 10 * seconds)
        print(f"killed {' '.join(pipeline.kills)}; the command ended with {pipeline.ends}")
        assert graded(project) == graded(undisturbed)
        finished = [
            run.data.tags["architecture"] for run in iterate_runs(shared, "idc") if run.info.status == "FINISHED"
        ]
        assert sorted(finished) == NETWORKS
        assert champion(shared, "idc") == "1"
    for clone in pipeline.clones:
        assert not list(clone.root.glob("data/**/*.part"))
    assert "didn't change" in project.dvc("repro").stdout
