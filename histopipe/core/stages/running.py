"""Run a stage: one process at a time, which ends with its parent process; the reason of a failure is recorded."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypedDict

import psutil

from histopipe.core.dvc import remove_unfinished_copies
from histopipe.core.errors import BusyError, HistopipeError, TrackingUnreachableError, UnreachableError
from histopipe.core.files import read_json, write_json, write_text
from histopipe.core.locking import exclusive_lock, is_held
from histopipe.core.stages.inputs import StageInputs, watch_inputs
from histopipe.core.workspace import Workspace

LOCK_SECONDS = 20.0  # long enough for the orphan of a killed parent to notice that and end
WATCH_SECONDS = 0.5
PARENT_VARIABLE = "HISTOPIPE_PARENT"  # process id of a flow whose end should end its stages
PLACE = ".place"  # suffix of the file, next to a stage's lock, with the stage's path of the checkout
EXIT_BAD_INPUT = 2
EXIT_BUSY = 75  # EX_TEMPFAIL: the same command may work later
EXIT_ORPHANED = 137
LASTING_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS})  # retries wouldn't help

_SHELLS = frozenset({"sh", "bash", "dash", "zsh", "fish", "ksh"})


@contextmanager
def running(stage: str, workspace: Workspace) -> Iterator[StageInputs]:
    """Lock and watch a stage's work inside the block, and record its failure.

    Yields the inputs of the stage, as they are now.

    Raises:
        BusyError: another process runs the same stage and hasn't ended within `LOCK_SECONDS`.
        ChangedInputError: inputs of the stage have changed since its start.
    """
    watch_parents()
    try:
        with _exclusive(stage, workspace):
            workspace.failure(stage).unlink(missing_ok=True)
            remove_unfinished_copies(workspace)
            inputs = StageInputs.record(stage, workspace)
            with watch_inputs(inputs):
                yield inputs
    except BaseException as problem:
        _record_failure(stage, workspace, problem)
        raise


@contextmanager
def _exclusive(stage: str, workspace: Workspace) -> Iterator[None]:
    path = workspace.lock(stage)
    busy = f"{stage} is running in another process: wait for it to end, then run again"
    with exclusive_lock(path, busy, LOCK_SECONDS):
        with suppress(OSError):  # on a full disk the stage may still end well
            write_text(path.with_suffix(PLACE), str(workspace.checkout))
        yield


def checkouts_of_running_stages(workspace: Workspace) -> dict[str, Path]:
    """Map each running stage to the path by which its process sees the checkout, which may differ in a container."""
    folder = workspace.lock("any").parent
    noted = {name: folder / f"{name}{PLACE}" for name in running_stages(workspace)}
    return {name: Path(path.read_text(encoding="utf-8")) for name, path in noted.items() if path.is_file()}


def running_stages(workspace: Workspace) -> list[str]:
    """List the stages and predictions that processes of this checkout run now."""
    locks = sorted(workspace.lock("any").parent.glob("*@*.lock"))
    return [path.name.removesuffix(".lock") for path in locks if is_held(path)]


def watch_parents() -> None:
    """End this process within a second after the `dvc` that started it, or the flow behind that, has ended.

    A killed `dvc` leaves its child running; a second `dvc` would then start another process on the same output.
    Commands that a person typed aren't watched: those may well outlive their terminal.
    """
    try:
        parents = _parents_to_watch()
    except psutil.NoSuchProcess:  # it ended before this process was ready
        os._exit(EXIT_ORPHANED)
    if parents:
        threading.Thread(target=_end_without, args=(parents,), name="watch-parents", daemon=True).start()


def _parents_to_watch() -> list[psutil.Process]:
    """Return the processes that this one depends on.

    Raises:
        psutil.NoSuchProcess: one of them has already ended.
    """
    parents = []
    if os.environ.get(PARENT_VARIABLE, "").isdigit():
        parents.append(psutil.Process(int(os.environ[PARENT_VARIABLE])))
    if "DVC_STAGE" in os.environ:
        # DVC starts a shell, which may or may not be replaced by the command itself
        lineage = psutil.Process().parents()
        nearest = next((parent for parent in lineage if parent.name() not in _SHELLS), None)
        if nearest is None or _adopts_orphans(nearest):
            raise psutil.NoSuchProcess(os.getppid())
        parents += [*lineage[:1], nearest]
    return parents


def _adopts_orphans(process: psutil.Process) -> bool:
    """Return whether a process is the first of the system or a service manager, rather than a `dvc` in a container."""
    first = process.pid == 1 or process.name().startswith("systemd")
    return first and not any("dvc" in argument for argument in process.cmdline())


def _end_without(parents: list[psutil.Process]) -> None:
    pause = threading.Event()
    while all(_alive(parent) for parent in parents):
        pause.wait(WATCH_SECONDS)
    os._exit(EXIT_ORPHANED)  # at once: the next process resumes from the last finished epoch


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class FailureRecord(TypedDict):
    """The record of a stage's failure.

    Attributes:
        stage: the name of the stage.
        kind: `bad_input`, `busy`, `unreachable`, `interrupted` or `error`.
        error: the name of the exception.
        message: the exception's message, for people.
    """

    stage: str
    kind: str
    error: str
    message: str


def _record_failure(stage: str, workspace: Workspace, problem: BaseException) -> None:
    """Record the reason of a failure for tasks, since DVC exits with 255 whatever went wrong."""
    reason: FailureRecord = {
        "stage": stage,
        "kind": failure_kind(problem),
        "error": type(problem).__name__,
        "message": str(problem),
    }
    with suppress(OSError):  # on a full disk the stage's own error matters more
        write_json(workspace.failure(stage), reason)


def failure_kind(problem: BaseException) -> str:
    """Return the kind of failure that an exception is, by which tasks decide on retries."""
    if isinstance(problem, OSError) and problem.errno in LASTING_ERRNOS:
        return "bad_input"
    kinds = (
        (UnreachableError, "unreachable"),
        (TrackingUnreachableError, "unreachable"),
        (HistopipeError, "bad_input"),
        (BusyError, "busy"),
        (KeyboardInterrupt, "interrupted"),
    )
    return next((name for error, name in kinds if isinstance(problem, error)), "error")


def read_failure(stage: str, workspace: Workspace) -> FailureRecord | None:
    """Return the reason of the stage's last failure; None if none was left or it can't be read."""
    path = workspace.failure(stage)
    try:
        reason: FailureRecord | None = read_json(path) if path.exists() else None
    except (HistopipeError, OSError, ValueError):
        return None
    return reason if isinstance(reason, dict) and {"kind", "message", "error"} <= set(reason) else None
