"""Limits on a stage's running time, and how it is ended with all its child processes.

Prefect's own timeout can't end a stage: tasks run in threads, and the stage is a process that DVC started.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from histopipe.core.errors import HistopipeError
from histopipe.core.params import TimeoutParams, read_params
from histopipe.core.workspace import Workspace

HOUR = 3600.0  # seconds

_COUNTED_AS = {
    "split_variant": "split",
    "train_variant": "train",
    "trial": "train",
    "evaluate_variant": "evaluate",
    "study": "compare",
    "search": "compare",
    "monitor": "predict",
}


class Alarm:
    """A timer that ends a child process, with its children, after a time.

    Attributes:
        rang: whether it ended the process.
    """

    def __init__(self, child: subprocess.Popen[bytes], seconds: float) -> None:
        self.rang = False
        self._child = child
        self._timer = threading.Timer(seconds, self._ring)
        self._timer.daemon = True

    @contextmanager
    def set(self) -> Iterator[Alarm]:
        """Run the timer inside the block."""
        self._timer.start()
        try:
            yield self
        finally:
            self._timer.cancel()

    def _ring(self) -> None:
        if self._child.poll() is None:
            self.rang = True
            end_with_children(self._child.pid)


def end_with_children(pid: int) -> None:
    """Kill a process, whatever its state, and all its children, also those started meanwhile."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        children: set[psutil.Process] = set()
        process.suspend()  # starts no more
        while new := set(process.children(recursive=True)) - children:
            for child in new:
                with suppress(psutil.NoSuchProcess):
                    child.suspend()
            children |= new
        for ended in (process, *children):
            with suppress(psutil.NoSuchProcess):
                ended.kill()


def setting_for(stage: str) -> str:
    """Return the key of `flow.timeouts` that limits a stage."""
    kind = stage.partition("@")[0]
    return _COUNTED_AS.get(kind, kind)


def seconds_for(stage: str, workspace: Workspace) -> float:
    """Return the time that a stage may run, in seconds."""
    return hours_for(stage, workspace) * HOUR


def longest_seconds(workspace: Workspace) -> float:
    """Return the longest time that any stage may run, and so keep others waiting for the same files."""
    return max(_timeouts(workspace).model_dump().values()) * HOUR


def hours_for(stage: str, workspace: Workspace) -> float:
    """Return the time that a stage may run, in hours, from `flow.timeouts`."""
    return float(getattr(_timeouts(workspace), setting_for(stage)))


def _timeouts(workspace: Workspace) -> TimeoutParams:
    try:
        return read_params(workspace.params).flow.timeouts
    except HistopipeError:
        return TimeoutParams()  # the stage itself reads the parameters next, and reports the error
