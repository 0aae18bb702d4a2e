"""Ingest over workers: each decodes parts of the archive in its clone, the flow's clone puts them together.

What comes out is, byte for byte, what an ingest on one machine gives, since parts are runs of whole shards. They travel
through DVC's remote, where the store's shards then lie already. None of them has to come: what lacks is decoded where
they are put together.
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
from tasks.distributed.workers import handed_over, listening, own_address, while_wanted
from tasks.processes import StageFailed, run_stage, task_logger
from tasks.timeouts import seconds_for

PARTS_PER_WORKER = 3  # so that a quicker worker does more of them
ROUNDS = 2  # times that a part is tried on the workers
LOOK_SECONDS = 5.0  # between looks at whether there are workers at all


class PartFailed(StageFailed):
    """A worker couldn't decode its part.

    Attributes:
        worker: its address.
    """

    def __init__(self, reason: str, worker: str) -> None:
        super().__init__(reason, worker)
        self.worker = worker

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True)
class Part:
    """One of several parts of an archive, counted from 1, and the folder that it comes into, from a clone's root."""

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
    """A part in DVC's remote, by its digest, and the worker that decoded it."""

    digest: str
    worker: str


@stage_task("ingest-part", "ingest-{dataset}-{number}-of-{of}", retries=0)
def decode_part(dataset: str, number: int, of: int, folder: str) -> Decoded:
    """Decode one part of an archive on a worker, into this folder of its clone, and push it to DVC's remote."""
    clone = handed_over()
    part = Workspace.around().root / folder
    try:
        with working_for(clone, [stage_name("fetch", dataset)]):
            stage = stage_name("ingest", dataset, part.name)
            run_stage(stage, "ingest", dataset, "--part", f"{number}/{of}", watch=while_wanted)
            digest = share_folder(part)
            shutil.rmtree(part)
    except (StageFailed, HistopipeError) as problem:
        raise PartFailed(str(problem), own_address()) from None
    return Decoded(digest, own_address())


def decode_on_workers(dataset: str) -> None:
    """Where tasks run in other clones and the store is out of date, bring parts here that workers decode."""
    if not is_distributed() or not _out_of_date(stage_name("ingest", dataset)):
        return
    client: Any = FlowRunContext.get().task_runner.client  # type: ignore[union-attr]
    parts = _missing_parts(dataset, PARTS_PER_WORKER * len(listening(client)))
    if not parts:
        return
    share([stage_name("fetch", dataset)])
    task_logger().info("%s is ingested in %d parts by the workers", dataset, len(parts))
    root, failed = Workspace.around().root, dict.fromkeys(parts, frozenset[str]())
    for _ in range(ROUNDS):
        outcomes = _decoded(dataset, failed, client)
        failed = {
            part: failed[part] | _failed_at(outcome)
            for part, outcome in outcomes.items()
            if not _brought(root / part.folder, outcome)
        }
        if not failed:
            return
        if not listening(client):
            break
    task_logger().warning("%d parts of %s didn't come from the workers: they are ingested here", len(failed), dataset)


def _out_of_date(stage: str) -> bool:
    """Whether DVC would run a stage, rather than leave it or take it from its cache."""
    done = run_dvc(Workspace.around(), "--wait-for-lock", "status", "--json", stage)
    changes = json.loads(done.stdout).get(stage, []) if done.returncode == 0 and done.stdout.strip() else []
    return any("changed outs" not in one for one in changes)


def _missing_parts(dataset: str, most: int) -> list[Part]:
    """List the parts worth asking workers for; none where the archive is no good, as ingest itself will say."""
    command = [sys.executable, "-m", "histopipe", "ingest", dataset, "--missing-parts", str(most)]
    root = Workspace.around().root
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
    return [Part.parse(line) for line in done.stdout.splitlines()] if done.returncode == 0 else []


def _decoded(dataset: str, parts: Mapping[Part, Set[str]], client: Any) -> dict[Part, Decoded | Exception]:
    """What became of each part, given to any worker but those that it is to avoid."""
    runs = {}
    for part, avoided in parts.items():
        others = [worker for worker in listening(client) if worker not in avoided] if avoided else []
        with _only_on(others):
            runs[part] = decode_part.submit(dataset, part.number, part.of, part.folder), others
    return {part: _outcome(run, others, client) for part, (run, others) in runs.items()}


def _only_on(workers: Sequence[str]) -> AbstractContextManager[Any]:
    """Tasks submitted inside go to these workers alone, though others be idle; to any where none is named."""
    import dask

    return dask.annotate(workers=list(workers)) if workers else nullcontext()  # type: ignore[attr-defined]


def _outcome(run: Any, workers: Sequence[str], client: Any) -> Decoded | Exception:
    """A part's result, or what it failed with; a scheduler whose workers are gone, or busy, would keep it for ever."""
    deadline = time.monotonic() + seconds_for("ingest", Workspace.around()) if workers else math.inf
    while True:
        try:
            found: Decoded | Exception = run.result(timeout=LOOK_SECONDS, raise_on_failure=False)
            return found
        except TimeoutError:
            there = listening(client)
            left = set(there).intersection(workers) if workers else there
            if not left or time.monotonic() > deadline:
                run.wrapped_future.cancel()
                return StageFailed("the scheduler has no workers left for it")
        except Exception as problem:  # Dask's own: a task that ended several workers, a scheduler that went away
            return problem


def _failed_at(outcome: Decoded | Exception) -> frozenset[str]:
    return frozenset({outcome.worker} if isinstance(outcome, PartFailed) else ())


def _brought(folder: Path, outcome: Decoded | Exception) -> bool:
    """Bring a decoded part into its folder; False, with a warning, where that fails."""
    try:
        if not isinstance(outcome, Decoded):
            raise outcome
        fetch_folder(outcome.digest, folder)
    except Exception as problem:
        task_logger().warning("part %s was not decoded by a worker: %s", folder.name, problem)
        return False
    return True
