"""Ingest on workers: each decodes parts of the archive in its clone, and the flow's clone joins them.

The result is, byte for byte, that of an ingest on one machine, since parts are runs of whole shards. They travel
through DVC's remote, which then has the store's shards already. A missing part is decoded where the parts are joined.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence, Set
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect.context import FlowRunContext

from histopipe.core.dvc import run_dvc
from histopipe.core.errors import HistopipeError
from histopipe.core.workspace import Workspace, stage_name
from tasks.declaration import stage_task
from tasks.distributed.remote import fetch_folder, share, share_folder
from tasks.distributed.stages import is_distributed, working_for
from tasks.distributed.workers import end_if_abandoned, flow_clone, listening, own_address
from tasks.processes import StageFailed, run_stage, task_logger
from tasks.timeouts import seconds_for

PARTS_PER_WORKER = 3  # so that a faster worker gets more of them
ROUNDS = 2  # times that a part is tried on the workers
LOOK_SECONDS = 5.0  # between checks that there are any workers


class PartFailed(StageFailed):
    """A worker couldn't decode its part.

    Attributes:
        worker: address of the worker.
    """

    def __init__(self, reason: str, worker: str) -> None:
        super().__init__(reason, worker)
        self.worker = worker

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True)
class Part:
    """One of several parts of an archive, counted from 1, and its folder, relative to a clone's root."""

    number: int
    of: int
    folder: str

    @classmethod
    def parse(cls, line: str) -> Part:
        """Read a line of `histopipe ingest --missing-parts`, such as `1/3 .checkpoints/ingest/idc/KEY/1-3`."""
        written, _, folder = line.partition(" ")
        number, _, of = written.partition("/")
        return cls(int(number), int(of), folder)


@dataclass(frozen=True)
class Decoded:
    """A decoded part: its digest in DVC's remote, and the worker that decoded it."""

    digest: str
    worker: str


@stage_task("ingest-part", "ingest-{dataset}-{number}-of-{of}", retries=0)
def decode_part(dataset: str, number: int, of: int, folder: str) -> Decoded:
    """Decode one part of an archive on a worker, into this folder of its clone, and push it to DVC's remote."""
    clone = flow_clone()
    part = Workspace.find().root / folder
    try:
        with working_for(clone, [stage_name("fetch", dataset)]):
            stage = stage_name("ingest", dataset, part.name)
            run_stage(stage, "ingest", dataset, "--part", f"{number}/{of}", watch=end_if_abandoned)
            digest = share_folder(part)
            shutil.rmtree(part)
    except (StageFailed, HistopipeError) as problem:
        raise PartFailed(str(problem), own_address()) from None
    return Decoded(digest, own_address())


def decode_on_workers(dataset: str) -> None:
    """Let workers in other clones decode parts, and fetch them, if the store is out of date."""
    if not is_distributed() or not _out_of_date(stage_name("ingest", dataset)):
        return
    client: Any = FlowRunContext.get().task_runner.client  # type: ignore[union-attr]
    parts = _missing_parts(dataset, PARTS_PER_WORKER * len(listening(client)))
    if not parts:
        return
    share([stage_name("fetch", dataset)])
    task_logger().info("%s is ingested in %d parts by the workers", dataset, len(parts))
    root, failed = Workspace.find().root, dict.fromkeys(parts, frozenset[str]())
    for _ in range(ROUNDS):
        outcomes = _decode_parts(dataset, failed, client)
        failed = {
            part: failed[part] | _failed_at(outcome)
            for part, outcome in outcomes.items()
            if not _fetch_part(root / part.folder, outcome)
        }
        if not failed:
            return
        if not listening(client):
            break
    task_logger().warning("%d parts of %s didn't come from the workers: they are ingested here", len(failed), dataset)


def _out_of_date(stage: str) -> bool:
    """Return whether DVC would run a stage, rather than leave it or take it from its cache."""
    done = run_dvc(Workspace.find(), "--wait-for-lock", "status", "--json", stage)
    changes = json.loads(done.stdout).get(stage, []) if done.returncode == 0 and done.stdout.strip() else []
    return any("changed outs" not in change for change in changes)


def _missing_parts(dataset: str, most: int) -> list[Part]:
    """List the parts that workers should decode; empty for a bad archive, which ingest itself will report."""
    command = [sys.executable, "-m", "histopipe", "ingest", dataset, "--missing-parts", str(most)]
    root = Workspace.find().root
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
    return [Part.parse(line) for line in done.stdout.splitlines()] if done.returncode == 0 else []


def _decode_parts(dataset: str, parts: Mapping[Part, Set[str]], client: Any) -> dict[Part, Decoded | Exception]:
    """Let workers decode the parts, each avoiding those where it failed before; return their outcomes."""
    runs = {}
    for part, avoided in parts.items():
        others = [worker for worker in listening(client) if worker not in avoided] if avoided else []
        with _only_on(others):
            runs[part] = decode_part.submit(dataset, part.number, part.of, part.folder), others
    return {part: _outcome(run, others, client) for part, (run, others) in runs.items()}


def _only_on(workers: Sequence[str]) -> AbstractContextManager[Any]:
    """Submit the tasks inside the block to these workers alone, even if others are idle; to any if none is named."""
    import dask

    return dask.annotate(workers=list(workers)) if workers else nullcontext()  # type: ignore[attr-defined]


def _outcome(run: Any, workers: Sequence[str], client: Any) -> Decoded | Exception:
    """Wait for a part's result or error; a scheduler without free workers would keep the part for ever."""
    deadline = time.monotonic() + seconds_for("ingest", Workspace.find()) if workers else math.inf
    while True:
        try:
            result: Decoded | Exception = run.result(timeout=LOOK_SECONDS, raise_on_failure=False)
            return result
        except TimeoutError:
            there = listening(client)
            left = set(there).intersection(workers) if workers else there
            if not left or time.monotonic() > deadline:
                run.wrapped_future.cancel()
                return StageFailed("the scheduler has no workers left for it")
        except Exception as problem:  # Dask's: a task that ended several workers, or a lost scheduler
            return problem


def _failed_at(outcome: Decoded | Exception) -> frozenset[str]:
    return frozenset({outcome.worker} if isinstance(outcome, PartFailed) else ())


def _fetch_part(folder: Path, outcome: Decoded | Exception) -> bool:
    """Fetch a decoded part into its folder; return false, with a warning, where that fails."""
    try:
        if not isinstance(outcome, Decoded):
            raise outcome
        fetch_folder(outcome.digest, folder)
    except Exception as problem:
        task_logger().warning("part %s was not decoded by a worker: %s", folder.name, problem)
        return False
    return True
