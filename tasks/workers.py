"""Stages on other machines: Dask workers that each hold a clone of their own, and a DVC remote between them.

A worker gets the parameters and `dvc.lock` of the flow's clone, has DVC pull the inputs as that lock has them, runs its
stage alone, and pushes what came out with the run-cache. The flow's clone takes it from there (docs/production.md).
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import yaml
from prefect.runtime import flow_run

from histopipe.core.errors import HistopipeError, UnreachableError, one_line
from histopipe.core.files import write_text
from histopipe.core.lineage import git_commit
from histopipe.core.locking import exclusive_lock
from histopipe.core.workspace import Workspace

if TYPE_CHECKING:
    from prefect.task_runners import TaskRunner

GPU_TAG = "gpu"  # of tasks that train
GPU_RESOURCE = "GPU"  # what `dask worker --resources GPU=1` advertises
INPUTS = ("ingest", "split", "split_variant", "weights")  # stages of the flow's clone, whose outputs workers pull
WATCH_SECONDS = 0.5
OWN_FILES = ("params.yaml", "dvc.lock")  # which a worker's clone takes over


@dataclass(frozen=True)
class Clone:
    """What another clone needs to run the same stages.

    Attributes:
        commit: that is checked out; None outside git.
        params: the text of `params.yaml`.
        lock: the text of `dvc.lock`; empty where nothing has run yet.
    """

    commit: str | None
    params: str
    lock: str

    @classmethod
    def of(cls, workspace: Workspace) -> Clone:
        """This checkout, as it is now.

        Raises:
            HistopipeError: its code differs from its commit, so that no other clone can have it.
        """
        _require_committed(workspace)
        lock = workspace.dvc_lock.read_text(encoding="utf-8") if workspace.dvc_lock.exists() else ""
        return cls(git_commit(workspace.root), workspace.params.read_text(encoding="utf-8"), lock)

    @contextmanager
    def taken_over(self, workspace: Workspace) -> Iterator[None]:
        """Another clone with these parameters and this record, for one stage at a time.

        Raises:
            HistopipeError: other code lies there.
        """
        with exclusive_lock(workspace.lock("clone")):
            here = git_commit(workspace.root)
            if here != self.commit:
                raise HistopipeError(
                    f"the clone at {workspace.root} is at commit {here}, the flow's at {self.commit}: "
                    f"`git checkout {self.commit}` there"
                )
            _require_committed(workspace)
            write_text(workspace.params, self.params)
            if self.lock:
                write_text(workspace.dvc_lock, self.lock)
            yield

    def inputs_of(self, stage: str) -> list[str]:
        """Stages on record that this one reads from and that workers don't run, by name."""
        about = stage.partition("@")[2]  # idc-cancernet or idc-cancernet-fold-3; names may hold dashes themselves
        recorded = (yaml.safe_load(self.lock) or {}).get("stages") or {} if self.lock else {}
        found = []
        for name in recorded:
            kind, _, of = name.partition("@")
            mine = {"weights": f"-{of}-" in f"-{about}-", "split_variant": of == about}
            if kind in INPUTS and mine.get(kind, about.startswith(f"{of}-")):
                found.append(name)
        return found


def _require_committed(workspace: Workspace) -> None:
    others = [f":!{name}" for name in OWN_FILES]
    command = ["git", "status", "--porcelain", "--untracked-files=no", "--", ".", *others]
    changed = subprocess.run(command, cwd=workspace.root, capture_output=True, text=True, check=False).stdout
    if changed.strip():
        first = changed.splitlines()[0][3:]
        raise HistopipeError(f"{workspace.root}: {first} differs from its commit, which other clones have: commit it")


def on_dask(address: str) -> TaskRunner[Any]:
    """A task runner that gives submitted tasks to the workers of a scheduler.

    Args:
        address: the scheduler's, such as `tcp://HOST:8786`.
    """
    import dask
    from prefect_dask.task_runners import DaskTaskRunner

    class OnWorkers(DaskTaskRunner):
        """Hands over this clone with every task; trainings go to workers with a GPU, where there are any."""

        @property
        def client(self) -> Any:
            """Dask's client, connected when it is first asked for."""
            try:
                return super().client
            except (OSError, ValueError) as problem:  # nobody there, or no address
                raise UnreachableError(
                    f"Dask's scheduler can't be reached ({one_line(problem)})",
                    "start it, or set flow.scheduler in params.yaml right",
                ) from None

        def submit(self, task: Any, *arguments: Any, **options: Any) -> Any:
            """Submit a task; see `DaskTaskRunner`."""
            self.client.set_metadata(_place(), asdict(Clone.of(Workspace.around())))
            trains = GPU_TAG in task.tags and _have_gpus(self.client)
            with dask.annotate(resources={GPU_RESOURCE: 1}) if trains else nullcontext():  # type: ignore[attr-defined]
                return super().submit(task, *arguments, **options)

    return OnWorkers(address=address)


def listening(client: Any) -> list[str]:
    """Addresses of the workers that a scheduler has now."""
    return list(client.scheduler_info(n_workers=-1)["workers"])


def own_address() -> str:
    """Of the Dask worker that runs this."""
    from distributed import get_worker

    return str(get_worker().address)


def _place() -> list[str]:
    """Where the scheduler keeps what a flow run hands over."""
    return ["histopipe", str(flow_run.get_id())]


def _have_gpus(client: Any) -> bool:
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return any(worker["resources"].get(GPU_RESOURCE) for worker in workers)


def handed_over() -> Clone | None:
    """What the flow's clone gave to the worker that runs this; None in the flow's own process."""
    if _worker() is None:
        return None
    from distributed import get_client

    return Clone(**get_client().get_metadata(_place()))


def _worker() -> Any:
    """The Dask worker that runs this task; None elsewhere."""
    if "distributed" not in sys.modules:
        return None
    from distributed import get_worker

    try:
        return get_worker()
    except ValueError:
        return None


@contextmanager
def while_wanted(end: Callable[[], object]) -> Iterator[threading.Event]:
    """On a worker, call `end` once nobody waits for its task any more: its flow was killed, or the scheduler is gone.

    Dask can't stop a task that runs. Left alone, it would train on while another worker, asked by the next flow,
    trains the same. Yields what is set before `end` is called.
    """
    unwanted, over = threading.Event(), threading.Event()
    worker = _worker()
    if worker is not None:
        wanted = partial(_is_wanted, worker, worker.get_current_task())
        threading.Thread(target=_end_unwanted, args=(wanted, over, unwanted, end), daemon=True).start()
    try:
        yield unwanted
    finally:
        over.set()


def _end_unwanted(
    wanted: Callable[[], bool], over: threading.Event, unwanted: threading.Event, end: Callable[[], object]
) -> None:
    while not over.wait(WATCH_SECONDS):
        if not wanted():
            unwanted.set()
            end()
            return


def _is_wanted(worker: Any, key: str) -> bool:
    from distributed.core import Status

    task = worker.state.tasks.get(key)
    return task is not None and task.state != "cancelled" and worker.status in (Status.running, Status.paused)
