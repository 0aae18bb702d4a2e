"""Ingest over workers: each decodes parts of the archive in its clone, the flow's clone puts them together.

What comes out is, byte for byte, what an ingest on one machine gives, since parts are runs of whole shards. They travel
through DVC's remote, where the store's shards then lie already. None of them has to come: what lacks is decoded where
they are put together.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence, Set
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect.context import FlowRunContext

from histopipe.core.dvc import run_dvc
from histopipe.core.errors import HistopipeError
from histopipe.core.params import read_params
from histopipe.core.workspace import Workspace, stage_name
from histopipe.ingest.parts import Part
from tasks.declaration import stage_task
from tasks.remote import fetch_folder, share_folder
from tasks.reproduction import StageFailed, hand_out, is_distributed, run_stage, task_logger, working_for
from tasks.timeouts import seconds_for
from tasks.workers import handed_over, listening, own_address

PARTS_PER_WORKER = 3  # so that a quicker worker does more of them
ROUNDS = 2  # times that a part is tried on the workers
LOOK_SECONDS = 5.0  # between looks at whether there are workers at all


class PartFailed(StageFailed):
    """A worker couldn't decode its part.

    Attributes:
        worker: its address.
    """

    def __init__(self, said: str, worker: str) -> None:
        super().__init__(said, worker)
        self.worker = worker

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True)
class Decoded:
    """A part in DVC's remote, by its digest, and the worker that decoded it."""

    digest: str
    worker: str


@stage_task("ingest-part", "ingest-{dataset}-{number}-of-{of}", retries=0)
def decode_part(dataset: str, number: int, of: int) -> Decoded:
    """Decode one part of an archive on a worker and push it to DVC's remote."""
    clone = handed_over()
    if clone is None:
        raise RuntimeError("parts are decoded on Dask workers")
    try:
        with working_for(clone, [stage_name("fetch", dataset)]):
            part = Part(number, of)
            run_stage(stage_name("ingest", dataset, str(part)), "ingest", dataset, "--part", f"{number}/{of}")
            folder = _folder(dataset) / str(part)
            digest = share_folder(folder)
            shutil.rmtree(folder)
    except (StageFailed, HistopipeError) as problem:
        raise PartFailed(str(problem), own_address()) from None
    return Decoded(digest, own_address())


def decode_on_workers(dataset: str) -> None:
    """Where tasks run in other clones and the store is out of date, bring parts here that workers decode."""
    if not is_distributed() or not _out_of_date(stage_name("ingest", dataset)):
        return
    client: Any = FlowRunContext.get().task_runner.client  # type: ignore[union-attr]
    parts = _wanted(dataset, len(listening(client)))
    if not parts:
        return
    hand_out([stage_name("fetch", dataset)])
    folder, failed = _folder(dataset), dict.fromkeys(parts, frozenset[str]())
    task_logger().info("%s is ingested in %d parts by the workers", dataset, len(parts))
    for _ in range(ROUNDS):
        found = _decoded(dataset, failed, client)
        failed = {
            part: failed[part] | _failed_at(one) for part, one in found.items() if not _brought(folder / str(part), one)
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


def _wanted(dataset: str, workers: int) -> list[Part]:
    """The parts that workers are worth asking for; none where the archive is no good, as ingest itself will say."""
    from histopipe.ingest.stage import missing_parts

    workspace = Workspace.around()
    params = read_params(workspace.params)
    try:
        return missing_parts(dataset, PARTS_PER_WORKER * workers, params.flow.part_shards, params, workspace)
    except HistopipeError:
        return []


def _decoded(dataset: str, parts: Mapping[Part, Set[str]], client: Any) -> dict[Part, Decoded | Exception]:
    """What became of each part, given to any worker but those that it is to avoid."""
    runs = {}
    for part, avoided in parts.items():
        others = [worker for worker in listening(client) if worker not in avoided] if avoided else []
        with _only_on(others):
            runs[part] = decode_part.submit(dataset, part.number, part.of), others
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


def _folder(dataset: str) -> Path:
    from histopipe.ingest.stage import parts_folder

    workspace = Workspace.around()
    return parts_folder(dataset, read_params(workspace.params), workspace)
