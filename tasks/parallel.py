"""How many trainings run side by side, and which GPU each of them sees."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Literal

from prefect.task_runners import ThreadPoolTaskRunner

from histopipe.core.errors import HistopipeError
from histopipe.core.params import Params, read_params
from histopipe.core.workspace import Workspace
from tasks.declaration import GPU_TAG
from tasks.distributed import on_dask

VISIBLE = "CUDA_VISIBLE_DEVICES"


class SideBySide(ThreadPoolTaskRunner[Any]):
    """Runs as many submitted tasks at a time as `train.parallel` says, looked up whenever a flow starts.

    A flow that names this runner keeps to the limit however it is started: by its command, from a notebook or from
    a deployment. With `flow.task_runner: dask` the workers of a scheduler take its place.
    """

    def duplicate(self) -> Any:
        """The runner of one flow run."""
        try:
            params = read_params(Workspace.around().params)
        except HistopipeError:
            return type(self)(max_workers=1)  # the flow itself reads the parameters next, and says what is wrong
        return self._runner(params)

    def _runner(self, params: Params) -> Any:
        if params.flow.scheduler and params.flow.task_runner == "dask":
            return on_dask(params.flow.scheduler)
        return type(self)(max_workers=parallel_trainings(params))


class SideBySideHere(SideBySide):
    """The same, for tasks that need this checkout's own database, and so never leave it."""

    def _runner(self, params: Params) -> Any:
        return type(self)(max_workers=parallel_trainings(params))


def parallel_trainings(params: Params) -> int:
    """How many trainings may run side by side: `train.parallel`, or one per GPU, or one."""
    if params.train.parallel != "auto":
        return params.train.parallel
    return 1 if params.train.devices == "all" else max(1, len(visible_gpus()))


class GpuPool:
    """Lends GPUs to the trainings of this process: to each its own while there are enough, then in turn.

    A lease is what the training's process finds in CUDA_VISIBLE_DEVICES; the variable of this process decides what
    there is to lend, so that a flow started on half of a machine keeps to that half.
    """

    def __init__(self) -> None:
        self._held: Counter[str] = Counter()
        self._turn = threading.Lock()

    @contextmanager
    def lend(self, devices: Literal["one", "all"]) -> Iterator[dict[str, str]]:
        """One GPU, the least used, or all of them; yields the environment that says so, empty where there is none."""
        names = self._take(visible_gpus(), devices)
        try:
            yield {VISIBLE: ",".join(names)} if names else {}
        finally:
            with self._turn:
                self._held.subtract(names)

    def _take(self, names: list[str], devices: Literal["one", "all"]) -> list[str]:
        with self._turn:
            taken = names if devices == "all" else sorted(names, key=self._held.__getitem__)[:1]
            self._held.update(taken)
        return taken


GPUS = GpuPool()


def for_training() -> AbstractContextManager[dict[str, str]]:
    """The environment of a training: one GPU or all of them, as `train.devices` says."""
    return GPUS.lend(read_params(Workspace.around().params).train.devices)


def for_prediction() -> AbstractContextManager[dict[str, str]]:
    """The environment of a prediction: one GPU, rather than the first one that a training may be using."""
    return GPUS.lend("one")


def set_gpu_limit(limit: int | None = None) -> int:
    """Let the server run at most so many tasks tagged `gpu` at one time.

    Without a number a limit that is set stays; where none is, it becomes this machine's GPUs, at least one.

    Returns:
        The limit in force.
    """
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        if limit is None:
            with suppress(ObjectNotFound):
                return client.read_concurrency_limit_by_tag(GPU_TAG).concurrency_limit
        limit = limit or max(1, len(visible_gpus()))
        client.create_concurrency_limit(tag=GPU_TAG, concurrency_limit=limit)
    return limit


def visible_gpus() -> list[str]:
    """GPUs that trainings may use, by the names that CUDA_VISIBLE_DEVICES takes.

    Asked of the driver: TensorFlow would take their memory by looking.
    """
    allowed = os.environ.get(VISIBLE)
    if allowed is not None:
        return _as_cuda_reads(allowed)
    if shutil.which("nvidia-smi") is None:
        return []
    answer = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False)
    return [str(number) for number in range(sum(line.startswith("GPU ") for line in answer.stdout.splitlines()))]


def _as_cuda_reads(allowed: str) -> list[str]:
    """The list ends at the first name that can't be one, such as -1."""
    names: list[str] = []
    for name in (part.strip() for part in allowed.split(",")):
        if not name or name.startswith("-") or name in names:
            break
        names.append(name)
    return names
