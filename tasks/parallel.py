"""The number of trainings that run in parallel, and the GPU of each."""

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
from tasks.distributed import dask_runner

VISIBLE = "CUDA_VISIBLE_DEVICES"


class ParallelRunner(ThreadPoolTaskRunner[Any]):
    """A task runner that runs `train.parallel` submitted tasks at a time.

    The number is read whenever a flow starts, so a flow with this runner keeps to the limit whether it is started by
    its command, from a notebook or from a deployment. With `flow.task_runner: dask`, a scheduler's workers replace it.
    """

    def duplicate(self) -> Any:
        """Create the runner of one flow run."""
        try:
            params = read_params(Workspace.find().params)
        except HistopipeError:
            return type(self)(max_workers=1)  # the flow itself reads the parameters next, and reports the error
        return self._runner(params)

    def _runner(self, params: Params) -> Any:
        if params.flow.scheduler and params.flow.task_runner == "dask":
            return dask_runner(params.flow.scheduler)
        return type(self)(max_workers=parallel_trainings(params))


class LocalParallelRunner(ParallelRunner):
    """The same runner for tasks that need this checkout's own database, and so never leave it."""

    def _runner(self, params: Params) -> Any:
        return type(self)(max_workers=parallel_trainings(params))


def parallel_trainings(params: Params) -> int:
    """Return the number of trainings in parallel: `train.parallel`, or one per GPU, or one."""
    if params.train.parallel != "auto":
        return params.train.parallel
    return 1 if params.train.devices == "all" else max(1, len(visible_gpus()))


class GpuPool:
    """A pool that lends GPUs to the trainings of this process: each gets its own while there are enough.

    When there are too few, they share the least used. The training's process gets its GPUs in CUDA_VISIBLE_DEVICES;
    this process' own variable limits the pool, so that a flow started on half of a machine keeps to that half.
    """

    def __init__(self) -> None:
        self._held: Counter[str] = Counter()
        self._turn = threading.Lock()

    @contextmanager
    def lend(self, devices: Literal["one", "all"]) -> Iterator[dict[str, str]]:
        """Lend the least used GPU, or all; yield the environment that names them, empty where there is none."""
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
    """Return the environment of a training: one GPU or all of them, by `train.devices`."""
    return GPUS.lend(read_params(Workspace.find().params).train.devices)


def for_prediction() -> AbstractContextManager[dict[str, str]]:
    """Return the environment of a prediction: the least used GPU, since a training may use the first one."""
    return GPUS.lend("one")


def set_gpu_limit(limit: int | None = None) -> int:
    """Set the server's limit on tasks tagged `gpu` that run at one time.

    Without a number, an existing limit stays; where there is none, it becomes the number of GPUs here, at least one.

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
    """List the GPUs that trainings may use, by their names in CUDA_VISIBLE_DEVICES.

    They are queried from the driver, since TensorFlow would occupy their memory.
    """
    allowed = os.environ.get(VISIBLE)
    if allowed is not None:
        return _parse_visible(allowed)
    if shutil.which("nvidia-smi") is None:
        return []
    answer = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False)
    return [str(number) for number in range(sum(line.startswith("GPU ") for line in answer.stdout.splitlines()))]


def _parse_visible(allowed: str) -> list[str]:
    """Parse CUDA_VISIBLE_DEVICES as CUDA does: up to the first invalid name, such as -1."""
    names: list[str] = []
    for name in (part.strip() for part in allowed.split(",")):
        if not name or name.startswith("-") or name in names:
            break
        names.append(name)
    return names
