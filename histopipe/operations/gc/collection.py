"""All searches for garbage, in order, and its removal."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from typing import Literal, get_args

from histopipe.core.errors import BusyError, HistopipeError
from histopipe.core.locking import exclusive_lock
from histopipe.core.workspace import Workspace
from histopipe.operations.gc import cache, remains, runs
from histopipe.operations.gc.activity import list_activities
from histopipe.operations.gc.history import History
from histopipe.operations.gc.leftover import Age, Leftover

Kind = Literal["mlflow", "dvc", "checkpoints", "files"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class Search:
    """A search for garbage, which reads git's history at most once.

    Args:
        workspace: the checkout.
        age: the least age of garbage.
    """

    def __init__(self, workspace: Workspace, age: Age) -> None:
        self.workspace = Workspace(workspace.checkout)
        self.age = age

    @cached_property
    def history(self) -> History:
        """The history of the checkout, with all that commits refer to."""
        return History(self.workspace, cache.cache_folder(self.workspace))

    def find(self, kind: Kind) -> Iterator[Leftover]:
        """Find the garbage of one kind."""
        if kind == "mlflow":
            yield from runs.unnamed(self.history, remains.resumable_runs(self.workspace), self.age)
        elif kind == "dvc":
            yield from cache.unreferenced(self.history, self.age)
        elif kind == "checkpoints":
            yield from remains.outdated_checkpoints(self.workspace, self.age)
            yield from remains.old_parts(self.workspace, self.age)
        else:
            yield from remains.old_notes(self.workspace, self.age)
            yield from remains.half_written(self.workspace, self.age)  # runs git


def collect(
    workspace: Workspace, older_than: str = "7d", only: Collection[Kind] = (), cloud: bool = False
) -> Iterator[Leftover]:
    """Find what nothing refers to, without removing anything.

    Args:
        workspace: the checkout.
        older_than: the least time since its last change, such as `7d`.
        only: kinds to look for; all if empty.
        cloud: whether to search DVC's remote too.

    Yields:
        Lines of the table, as soon as they are found.

    Raises:
        HistopipeError: `older_than` is no age.
    """
    search = Search(workspace, Age.parse(older_than))
    for kind in KINDS:
        if not only or kind in only:
            yield from _report_problems(kind, lambda kind=kind: search.find(kind))  # type: ignore[misc]
    if cloud:
        yield from _report_problems("DVC remote", lambda: cache.in_remote(search.history, search.age))


def _report_problems(kind: str, find: Callable[[], Iterator[Leftover]]) -> Iterator[Leftover]:
    """Yield what is found; a failure becomes a line of the table, so that the search for other kinds continues."""
    try:
        yield from find()
    except HistopipeError as problem:
        yield Leftover(kind, str(problem), state="unknown")


@contextmanager
def removing(workspace: Workspace) -> Iterator[Callable[[Leftover], Leftover]]:
    """Allow removals inside the `with` block: nothing runs in the checkout, and no other removal is in progress.

    Yields:
        A function that removes a line of the table and returns it with its new state.

    Raises:
        BusyError: a stage, a flow, DVC or another removal runs in this checkout.
        HistopipeError: Prefect's server can't be reached, so flows may be running.
    """
    path = workspace.checkout_lock("gc")
    with exclusive_lock(path, "another gc is running here: wait for it to end, then run this again", wait=0):
        _require_inactive(workspace)
        yield partial(_remove, workspace)


def _require_inactive(workspace: Workspace) -> None:
    if activities := activity(workspace):
        raise BusyError(f"{activities[0]} runs here and may need these files: wait for it to end, then run this again")


def _remove(workspace: Workspace, line: Leftover) -> Leftover:
    """Remove one line, unless something runs here by now; a failure is written into the line, and others continue."""
    if line.removal is None:
        return line
    try:
        _require_inactive(workspace)
        line.removal()
    except (HistopipeError, BusyError, OSError) as problem:
        return replace(line, reason=f"not removed, or not all: {problem}", removal=None, state="unknown")
    return replace(line, state="removed")


def activity(workspace: Workspace) -> list[str]:
    """Describe what runs in the checkout now.

    Raises:
        HistopipeError: Prefect's server can't be reached, so flows may be running.
    """
    import requests

    try:
        return list_activities(workspace)
    except (requests.RequestException, ValueError) as problem:
        raise HistopipeError(
            f"Prefect's server can't be reached ({type(problem).__name__}), so flows may be running: start it, or "
            "unset PREFECT_API_URL (`histopipe doctor` shows where it is set)"
        ) from None
