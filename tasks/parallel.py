"""How many trainings run side by side."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any, Self

from prefect.task_runners import ThreadPoolTaskRunner

from histopipe.errors import HistopipeError
from histopipe.params import Params, read_params
from histopipe.paths import Workspace


class SideBySide(ThreadPoolTaskRunner[Any]):
    """Runs as many submitted tasks at a time as `train.parallel` says, looked up whenever a flow starts.

    A flow that names this runner keeps to the limit however it is started: by its command, from a notebook or from
    a deployment.
    """

    def duplicate(self) -> Self:
        """The runner of one flow run."""
        try:
            limit = parallel_trainings(read_params(Workspace.around().params))
        except HistopipeError:
            limit = 1  # the flow itself reads the parameters next, and says what is wrong with them
        return type(self)(max_workers=limit)


def parallel_trainings(params: Params) -> int:
    """How many trainings may run side by side: `train.parallel`, or one per GPU, or one."""
    if params.train.parallel != "auto":
        return params.train.parallel
    return max(1, _gpus())


def _gpus() -> int:
    """GPUs of this machine, asked of the driver: TensorFlow would take their memory by looking."""
    if shutil.which("nvidia-smi") is None:
        return 0
    answer = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False)
    return sum(line.startswith("GPU ") for line in answer.stdout.splitlines())
