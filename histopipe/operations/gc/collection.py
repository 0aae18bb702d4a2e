"""All searches for garbage, one after the other."""

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
from histopipe.operations.gc.activity import going_on
from histopipe.operations.gc.history import History
from histopipe.operations.gc.leftover import Age, Leftover

Kind = Literal["mlflow", "dvc", "checkpoints", "files"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class Search:
    """What the searches have in common, looked up once.

    Attributes:
        workspace: the checkout.
        age: that garbage must have.
    """

    def __init__(self, workspace: Workspace, age: Age) -> None:
        self.workspace = Workspace(workspace.home)
        self.age = age

    @cached_property
    def history(self) -> History:
        """What commits name."""
        return History(self.workspace, cache.cache_folder(self.workspace))

    def of(self, kind: Kind) -> Iterator[Leftover]:
        """The garbage of one kind."""
        if kind == "mlflow":
            yield from runs.unnamed(self.history, remains.resumable_runs(self.workspace), self.age)
        elif kind == "dvc":
            yield from cache.unreferenced(self.history, self.age)
        elif kind == "checkpoints":
            yield from remains.outdated_checkpoints(self.workspace, self.age)
            yield from remains.old_parts(self.workspace, self.age)
        else:
            yield from remains.old_notes(self.workspace, self.age)
            yield from remains.half_written(self.workspace, self.age)  # asks git


def collect(
    workspace: Workspace, older_than: str = "7d", only: Collection[Kind] = (), cloud: bool = False
) -> Iterator[Leftover]:
    """Look for what nothing refers to; removes nothing. Lines come as they are found.

    Args:
        workspace: the checkout.
        older_than: how long it must not have changed, such as `7d`.
        only: kinds to look for; all where none are given.
        cloud: look into DVC's remote too.

    Raises:
        HistopipeError: `older_than` can't be read.
    """
    search = Search(workspace, Age.parse(older_than))
    for kind in KINDS:
        if not only or kind in only:
            yield from _told(kind, lambda kind=kind: search.of(kind))  # type: ignore[misc]
    if cloud:
        yield from _told("DVC remote", lambda: cache.in_remote(search.history, search.age))


def _told(what: str, find: Callable[[], Iterator[Leftover]]) -> Iterator[Leftover]:
    """What was found, and a line that says so where something can't be asked: the other kinds go on."""
    try:
        yield from find()
    except HistopipeError as problem:
        yield Leftover(what, str(problem), state="unknown")


@contextmanager
def removing(workspace: Workspace) -> Iterator[Callable[[Leftover], Leftover]]:
    """Inside, what was found may be removed: nothing works here, and no other removal is under way.

    Yields what removes a line, and returns it as it is then.

    Raises:
        BusyError: a stage, a flow, DVC or another removal works in this checkout.
        HistopipeError: Prefect's server can't be asked whether a flow runs.
    """
    path = workspace.home_lock("gc")
    with exclusive_lock(path, "another gc is under way here: wait for it to end, then run again", wait=0):
        _require_rest(workspace)
        yield partial(_removed, workspace)


def _require_rest(workspace: Workspace) -> None:
    if works := activity(workspace):
        raise BusyError(f"{works[0]} works here and may need what lies about: wait for it to end, then run again")


def _removed(workspace: Workspace, line: Leftover) -> Leftover:
    """Remove one line, unless something works here by now; of one that can't be removed, why: the others go on."""
    if line.removal is None:
        return line
    try:
        _require_rest(workspace)
        line.removal()
    except (HistopipeError, BusyError, OSError) as problem:
        return replace(line, why=f"not removed, or not all: {problem}", removal=None, state="unknown")
    return replace(line, state="removed")


def activity(workspace: Workspace) -> list[str]:
    """What works in the checkout now, in words.

    Raises:
        HistopipeError: Prefect's server can't be asked whether a flow runs.
    """
    import requests

    try:
        return going_on(workspace)
    except (requests.RequestException, ValueError) as problem:
        raise HistopipeError(
            f"Prefect's server can't be asked whether a flow runs ({type(problem).__name__}): start it, or unset "
            "PREFECT_API_URL (`histopipe doctor` says where it is set)"
        ) from None
