"""Dask's workers: a task runner that gives them tasks, and what a task finds out about the worker that runs it."""

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

GPU_RESOURCE = "GPU"  # what `dask worker --resources GPU=1` advertises
WATCH_SECONDS = 0.5


def on_dask(address: str) -> TaskRunner[Any]:
    """Make a task runner that gives submitted tasks to the workers of a scheduler.

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
            self.client.set_metadata(_metadata_key(), asdict(Clone.of(Workspace.around())))
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
    """Return where the scheduler keeps what a flow run hands over."""
    return ["histopipe", str(flow_run.get_id())]


def _have_gpus(client: Any) -> bool:
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return any(worker["resources"].get(GPU_RESOURCE) for worker in workers)


def on_worker() -> bool:
    """Tell whether a Dask worker runs this task, in a clone of its own."""
    return _worker() is not None


def handed_over() -> Clone:
    """Return what the flow's clone gave to the worker that runs this.

    Raises:
        RuntimeError: no worker runs this.
    """
    if not on_worker():
        raise RuntimeError("only a Dask worker works for the clone of a flow")
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
