"""Dask's workers: a task runner that gives them tasks, and a task's access to its worker."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from prefect.runtime import flow_run

from histopipe.core.errors import UnreachableError, one_line
from histopipe.core.workspace import Workspace
from tasks.declaration import GPU_TAG
from tasks.distributed.clones import Clone

if TYPE_CHECKING:
    from prefect.task_runners import TaskRunner

GPU_RESOURCE = "GPU"  # resource that `dask worker --resources GPU=1` advertises
WATCH_SECONDS = 0.5


def dask_runner(address: str) -> TaskRunner[Any]:
    """Create a task runner that gives submitted tasks to the workers of a scheduler.

    Args:
        address: address of the scheduler, such as `tcp://HOST:8786`.
    """
    import dask
    from prefect_dask.task_runners import DaskTaskRunner

    class OnWorkers(DaskTaskRunner):
        """A runner that sends this clone's state with every task, and trainings to workers with a GPU, if any."""

        @property
        def client(self) -> Any:
            """Dask's client, connected at its first use."""
            try:
                return super().client
            except (OSError, ValueError) as problem:  # no scheduler there, or no address
                raise UnreachableError(
                    f"Dask's scheduler can't be reached ({one_line(problem)})",
                    "start it, or set flow.scheduler in params.yaml right",
                ) from None

        def submit(self, task: Any, *arguments: Any, **options: Any) -> Any:
            """Submit a task; see `DaskTaskRunner`."""
            self.client.set_metadata(_metadata_key(), asdict(Clone.of_workspace(Workspace.find())))
            trains = GPU_TAG in task.tags and _have_gpus(self.client)
            with dask.annotate(resources={GPU_RESOURCE: 1}) if trains else nullcontext():  # type: ignore[attr-defined]
                return super().submit(task, *arguments, **options)

    return OnWorkers(address=address)


def listening(client: Any) -> list[str]:
    """List the addresses of the workers that a scheduler has now."""
    return list(client.scheduler_info(n_workers=-1)["workers"])


def own_address() -> str:
    """Return the address of the Dask worker that runs this."""
    from distributed import get_worker

    return str(get_worker().address)


def _metadata_key() -> list[str]:
    """Return the scheduler's key for the state that a flow run sends."""
    return ["histopipe", str(flow_run.get_id())]


def _have_gpus(client: Any) -> bool:
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return any(worker["resources"].get(GPU_RESOURCE) for worker in workers)


def is_on_worker() -> bool:
    """Return whether a Dask worker runs this task, in its own clone."""
    return _worker() is not None


def flow_clone() -> Clone:
    """Return the state of the flow's clone that the worker running this task received.

    Raises:
        RuntimeError: no worker runs this.
    """
    if not is_on_worker():
        raise RuntimeError("only a Dask worker runs stages for the clone of a flow")
    from distributed import get_client

    return Clone(**get_client().get_metadata(_metadata_key()))


def _worker() -> Any:
    """Return the Dask worker that runs this task; None elsewhere."""
    if "distributed" not in sys.modules:
        return None
    from distributed import get_worker

    try:
        return get_worker()
    except ValueError:
        return None


@contextmanager
def end_if_abandoned(end: Callable[[], object]) -> Iterator[threading.Event]:
    """Call `end` on a worker once its task is abandoned: its flow was killed, or the scheduler is gone.

    Dask can't stop a running task. Left alone, it would continue to train while another worker trains the same for the
    next flow. Yields an event that is set before `end` is called.
    """
    abandoned, over = threading.Event(), threading.Event()
    worker = _worker()
    if worker is not None:
        is_needed = partial(_is_needed, worker, worker.get_current_task())
        threading.Thread(target=_end_if_abandoned, args=(is_needed, over, abandoned, end), daemon=True).start()
    try:
        yield abandoned
    finally:
        over.set()


def _end_if_abandoned(
    is_needed: Callable[[], bool], over: threading.Event, abandoned: threading.Event, end: Callable[[], object]
) -> None:
    while not over.wait(WATCH_SECONDS):
        if not is_needed():
            abandoned.set()
            end()
            return


def _is_needed(worker: Any, key: str) -> bool:
    from distributed.core import Status

    task = worker.state.tasks.get(key)
    return task is not None and task.state != "cancelled" and worker.status in (Status.running, Status.paused)
