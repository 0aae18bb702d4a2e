"""Run one DVC stage as a child process: stream its log, wait while it is busy, say why it failed."""

from __future__ import annotations

import io
import logging
import os
import re
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from prefect.exceptions import MissingContextError
from prefect.logging import get_logger, get_run_logger
from prefect.runtime import flow_run

from histopipe.core.dvc import clear_cut_off_lock
from histopipe.core.errors import HistopipeError, UnreachableError
from histopipe.core.lineage import FLOW_RUN_VARIABLE
from histopipe.core.params import read_params
from histopipe.core.stages.running import PARENT_VARIABLE, read_failure
from histopipe.core.workspace import Workspace, stage_name
from tasks.remote import fetch_inputs, share
from tasks.timeouts import Alarm, end_with_children, hours_for, longest_seconds, seconds_for, setting_for
from tasks.workers import Clone, handed_over, while_wanted

REPRODUCE = ("dvc", "--wait-for-lock", "repro", "--single-item")
BUSY_PAUSE = 5.0  # seconds between looks at a stage that another process is running
TAIL_LINES = 20
BAR_SECONDS = "10"  # between redrawings of progress bars, which nobody watches here

_BUSY = re.compile(r"is busy, it is being blocked by|Unable to acquire lock")


class StageFailed(RuntimeError):
    """A stage failed for a reason that may pass."""


class BadInput(StageFailed):
    """A stage refused its input; trying again changes nothing."""


class TookTooLong(StageFailed):
    """A stage was ended because it ran for longer than `flow.timeouts` lets it."""


class Unwanted(StageFailed):
    """Nobody waits for the stage any more."""


class Busy(StageFailed):
    """Another process is running the stage."""


def worth_retrying(task: Any, task_run: Any, state: Any) -> bool:
    """Prefect's retry condition: bad input stays bad."""
    return not isinstance(state.result(raise_on_failure=False), BadInput | Unwanted)


def may_overwrite(out: str, asked: bool) -> bool:
    """Whether a command may replace its earlier output: as asked, or since it can only be that of a run's first try."""
    return asked or not os.path.lexists(Workspace.around().root / out)


def reproduce(
    stage: str,
    force: bool = False,
    on_line: Callable[[str], None] | None = None,
    environment: Mapping[str, str] | None = None,
    pull: bool = False,
) -> None:
    """Bring one stage up to date, as `dvc repro --single-item` does.

    On a Dask worker, DVC first pulls what the stage reads, as the flow's clone has it, and what comes out is pushed.

    Args:
        stage: its name in `dvc.yaml`, such as `train@idc-cancernet`.
        force: run it even if nothing changed.
        on_line: is shown every line of the stage's log.
        environment: variables that the stage finds besides this process's own.
        pull: take it from the remote where another clone has run it.

    Raises:
        BadInput: the stage refused its input.
        StageFailed: it failed otherwise, ran for too long, or stayed busy for as long.
    """
    if (clone := handed_over()) is not None:
        _reproduce_here_for(clone, stage, on_line, environment)
        return
    options = [*(["--force"] if force else []), *(["--pull"] if pull else [])]
    _run_when_free(stage, [*REPRODUCE, *options, stage], on_line, environment)


def _reproduce_here_for(
    clone: Clone, stage: str, on_line: Callable[[str], None] | None, environment: Mapping[str, str] | None
) -> None:
    """Run a stage in this worker's clone for the flow's; an evaluation first takes over the training it is of."""
    kind, _, about = stage.partition("@")
    training = {"evaluate": "train", "evaluate_variant": "train_variant"}.get(kind)
    chain = [stage_name(training, about), stage] if training else [stage]
    with working_for(clone, clone.inputs_of(stage)):
        for one in chain:
            _run_when_free(one, [*REPRODUCE, "--pull", one], on_line, environment)
        share(chain)


@contextmanager
def working_for(clone: Clone, inputs: Sequence[str]) -> Iterator[None]:
    """This worker's clone as the flow's is, with the outputs of these stages.

    Raises:
        BadInput: other code lies here.
        StageFailed: DVC's remote can't be reached.
    """
    try:
        with clone.taken_over(Workspace.around()):
            fetch_inputs(inputs)
            yield
    except UnreachableError as problem:
        raise StageFailed(str(problem)) from None
    except HistopipeError as problem:
        raise BadInput(str(problem)) from None


def is_distributed() -> bool:
    """Whether submitted tasks run in other clones."""
    return read_params(Workspace.around().params).flow.task_runner == "dask"


def hand_out(stages: Sequence[str]) -> None:
    """Where tasks run in other clones, let these pull what the stages gave."""
    if is_distributed():
        share(stages)


def collect(stages: Sequence[str]) -> None:
    """Where tasks ran in other clones, bring what came out into this one."""
    for stage in stages if is_distributed() else ():
        reproduce(stage, pull=True)


def run_stage(
    stage: str,
    *arguments: str,
    on_line: Callable[[str], None] | None = None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run a command of `histopipe` that DVC doesn't know.

    Args:
        stage: the name under which it locks and leaves the reason of a failure.
        arguments: of the command.
        on_line: is shown every line of its log.
        environment: variables that it finds besides this process's own.

    Raises:
        BadInput: the command refused its input.
        StageFailed: it failed otherwise, ran for too long, or stayed busy for as long.
    """
    _run_when_free(stage, ["histopipe", *arguments], on_line, environment)


def _run_when_free(
    stage: str,
    command: Sequence[str],
    on_line: Callable[[str], None] | None,
    environment: Mapping[str, str] | None,
) -> None:
    deadline = time.monotonic() + longest_seconds(Workspace.around())  # a stage that reads the same is as busy
    while True:
        try:
            return _run_once(stage, command, on_line, environment or {})
        except Busy:
            if time.monotonic() > deadline:
                raise
            task_logger().info("%s is running in another process; waiting for it", stage)
            time.sleep(BUSY_PAUSE)


def _run_once(
    stage: str, command: Sequence[str], on_line: Callable[[str], None] | None, environment: Mapping[str, str]
) -> None:
    """Run a module with its arguments as a child process."""
    workspace = Workspace.around()
    clear_cut_off_lock(workspace)
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
        while_wanted(lambda: end_with_children(child.pid)) as unwanted,
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
        raise Unwanted(f"{stage} was ended: its flow, or Dask's scheduler, is gone")
    if child.returncode != 0:
        raise _failure(stage, workspace, list(tail))


def _took_too_long(stage: str, workspace: Workspace) -> TookTooLong:
    setting = f"flow.timeouts.{setting_for(stage)}"
    return TookTooLong(
        f"{stage} was ended after {hours_for(stage, workspace):g} hours, its {setting} in params.yaml: "
        "raise that if it needs longer; trainings, searches and downloads carry on the next time"
    )


def _environment() -> dict[str, str]:
    """The stage finds its command beside this interpreter, ends when this process does, and tags its run."""
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
    """Whole lines of a log; of a progress bar, which redraws itself behind carriage returns, the last state."""
    # newline: otherwise every carriage return would end a line, and every redrawing be one
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
    """The log of the task that runs, or a plain one outside of any."""
    try:
        return get_run_logger()
    except MissingContextError:
        return get_logger("histopipe")
