"""Run one command as a child process: stream its log, wait while its stage is busy, report why it failed."""

from __future__ import annotations

import io
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any

from prefect.exceptions import MissingContextError
from prefect.logging import get_logger, get_run_logger
from prefect.runtime import flow_run

from histopipe.core.dvc import remove_damaged_rwlock
from histopipe.core.lineage import FLOW_RUN_VARIABLE
from histopipe.core.stages.running import PARENT_VARIABLE, read_failure
from histopipe.core.workspace import Workspace
from tasks.timeouts import Alarm, end_with_children, hours_for, longest_seconds, seconds_for, setting_for

REPRODUCE = ("dvc", "--wait-for-lock", "repro", "--single-item")
BUSY_PAUSE = 5.0  # seconds between attempts while another process runs the stage
TAIL_LINES = 20
BAR_SECONDS = "10"  # between updates of progress bars, which go to a log here

_BUSY = re.compile(r"is busy, it is being blocked by|Unable to acquire lock")

Watch = Callable[[Callable[[], object]], AbstractContextManager[threading.Event]]


class StageFailed(RuntimeError):
    """A stage failed for a reason that may be temporary."""


class BadInput(StageFailed):
    """A stage refused its input; trying again doesn't help."""


class TookTooLong(StageFailed):
    """A stage was ended because it ran for longer than its limit in `flow.timeouts`."""


class Abandoned(StageFailed):
    """A stage was ended because its flow is gone."""


class Busy(StageFailed):
    """Another process runs the stage."""


def worth_retrying(task: Any, task_run: Any, state: Any) -> bool:
    """Decide for Prefect whether to retry: not after bad input."""
    return not isinstance(state.result(raise_on_failure=False), BadInput | Abandoned)


@contextmanager
def unwatched(end: Callable[[], object]) -> Iterator[threading.Event]:
    """Let a command run until it ends by itself."""
    yield threading.Event()


def run_repro(
    stage: str,
    *options: str,
    on_line: Callable[[str], None] | None = None,
    environment: Mapping[str, str] | None = None,
    watch: Watch = unwatched,
) -> None:
    """Run `dvc repro --single-item` in this checkout.

    Args:
        stage: name of the stage in `dvc.yaml`.
        options: options of the command, such as `--force`.
        on_line: called with every line of the stage's log.
        environment: variables of the stage besides this process's own.
        watch: context that gets a function to end the command early, and yields an event set when it did.

    Raises:
        BadInput: the stage refused its input.
        StageFailed: it failed otherwise, ran for too long, or stayed busy for as long.
    """
    _run_when_free(stage, [*REPRODUCE, *options, stage], on_line, environment or {}, watch)


def run_stage(
    stage: str,
    *arguments: str,
    on_line: Callable[[str], None] | None = None,
    environment: Mapping[str, str] | None = None,
    watch: Watch = unwatched,
) -> None:
    """Run a command of `histopipe` that DVC doesn't know.

    Args:
        stage: name of its lock and of its failure file.
        arguments: arguments of the command.
        on_line: called with every line of its log.
        environment: variables of the command besides this process's own.
        watch: context that gets a function to end the command early, and yields an event set when it did.

    Raises:
        BadInput: the command refused its input.
        StageFailed: it failed otherwise, ran for too long, or stayed busy for as long.
    """
    _run_when_free(stage, ["histopipe", *arguments], on_line, environment or {}, watch)


def _run_when_free(
    stage: str,
    command: Sequence[str],
    on_line: Callable[[str], None] | None,
    environment: Mapping[str, str],
    watch: Watch,
) -> None:
    deadline = time.monotonic() + longest_seconds(
        Workspace.find()
    )  # another stage that uses the same files takes at most that long
    while True:
        try:
            return _run_once(stage, command, on_line, environment, watch)
        except Busy:
            if time.monotonic() > deadline:
                raise
            task_logger().info("%s is running in another process; waiting for it", stage)
            time.sleep(BUSY_PAUSE)


def _run_once(
    stage: str,
    command: Sequence[str],
    on_line: Callable[[str], None] | None,
    environment: Mapping[str, str],
    watch: Watch,
) -> None:
    """Run a module with its arguments as a child process."""
    workspace = Workspace.find()
    remove_damaged_rwlock(workspace)
    workspace.failure(stage).unlink(missing_ok=True)
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    with (
        subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=workspace.root,
            env=_environment() | dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as child,
        Alarm(child, seconds_for(stage, workspace)).set() as alarm,
        watch(lambda: end_with_children(child.pid)) as unwanted,
    ):
        assert child.stdout is not None
        for line in _lines(child.stdout):
            tail.append(line)
            task_logger().info(line)
            if on_line:
                on_line(line)
        child.wait()
    if alarm.rang and child.returncode != 0:
        raise _took_too_long(stage, workspace)
    if unwanted.is_set():
        raise Abandoned(f"{stage} was ended: its flow, or Dask's scheduler, is gone")
    if child.returncode != 0:
        raise _failure(stage, workspace, list(tail))


def _took_too_long(stage: str, workspace: Workspace) -> TookTooLong:
    setting = f"flow.timeouts.{setting_for(stage)}"
    return TookTooLong(
        f"{stage} was ended after {hours_for(stage, workspace):g} hours, its {setting} in params.yaml: "
        "raise that if it needs longer; trainings, searches and downloads resume the next time"
    )


def _environment() -> dict[str, str]:
    """Return the environment of a stage: it finds its command next to this interpreter, and tags its run.

    It ends when this process does.
    """
    environment = (
        {"TQDM_MININTERVAL": BAR_SECONDS}
        | os.environ
        | {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
            "PYTHONUNBUFFERED": "1",
            PARENT_VARIABLE: str(os.getpid()),
        }
    )
    identifier = flow_run.get_id()
    return environment | ({FLOW_RUN_VARIABLE: identifier} if identifier else {})


def _lines(stream: IO[bytes]) -> Iterator[str]:
    """Iterate over the whole lines of a log; of a progress bar, which redraws itself, only the last state."""
    # newline: otherwise every carriage return would end a line, and every redrawing would be a line
    for line in io.TextIOWrapper(stream, encoding="utf-8", errors="replace", newline="\n"):
        shown = line.rstrip("\r\n").split("\r")[-1].rstrip()
        if shown:
            yield shown


def _failure(stage: str, workspace: Workspace, tail: list[str]) -> StageFailed:
    reason = read_failure(stage, workspace)
    if reason is None:
        busy = any(_BUSY.search(line) for line in tail)
        return Busy(f"{stage} is busy") if busy else StageFailed(f"{stage} failed: {' | '.join(tail[-3:])}")
    kinds = {"bad_input": BadInput, "busy": Busy}
    return kinds.get(reason["kind"], StageFailed)(f"{stage}: {reason['message'] or reason['error']}")


def task_logger() -> logging.Logger | logging.LoggerAdapter[logging.Logger]:
    """Return the logger of the running task, or a plain one outside of any."""
    try:
        return get_run_logger()
    except MissingContextError:
        return get_logger("histopipe")
