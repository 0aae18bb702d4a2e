"""DVC's cache: objects that no `dvc.lock` of any commit names, and run-cache entries whose outputs are gone.

The candidates are what DVC considers unused (`dvc gc --all-commits --all-experiments`). Of these, recent objects are
kept, and those that a `dvc.lock` names though their stage is no longer in `params.yaml`.
"""

from __future__ import annotations

import fcntl
import re
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from histopipe.core.dvc import error_line, run_dvc
from histopipe.core.errors import BusyError, HistopipeError
from histopipe.core.workspace import Workspace
from histopipe.operations.gc.history import HASH, History
from histopipe.operations.gc.leftover import Age, Leftover, room

EVERY_COMMIT = ("gc", "--all-commits", "--all-experiments")
UNREFERENCED = "no commit, branch, tag, stash, experiment nor the workspace's dvc.lock names them"

_REMOVING = re.compile(r"^Removing (?P<path>.+)$", re.MULTILINE)


def cache_folder(workspace: Workspace) -> Path:
    """Return the folder in which DVC keeps its objects.

    Raises:
        HistopipeError: this is no DVC repository.
    """
    done = run_dvc(Workspace(workspace.checkout), "cache", "dir")
    if done.returncode != 0:
        raise HistopipeError(f"DVC's cache can't be found ({error_line(done)}): run in a clone of histopipe")
    return (workspace.checkout / done.stdout.strip().splitlines()[-1]).resolve()


def is_shared(folder: Path, workspace: Workspace) -> bool:
    """Return whether the cache is outside the checkout, so that other checkouts may use it too."""
    return not folder.is_relative_to(workspace.checkout.resolve())


def unreferenced(history: History, age: Age) -> Iterator[Leftover]:
    """Find objects and run-cache entries of this checkout's cache that can be removed.

    Raises:
        HistopipeError: DVC or git can't list what commits need.
    """
    if is_shared(history.cache, history.workspace):
        reason = f"{history.cache} may serve other checkouts: `dvc gc --all-commits --projects OTHER …` checks them too"
        yield Leftover("DVC cache", reason, state="kept")
        return
    candidates = [path for path in _unused(history.workspace) if path.is_relative_to(history.cache)]
    named = {path for path in candidates if _hash(path) in history.hashes}
    young = {path for path in candidates if path not in named and not age.passed(path)}
    garbage = [path for path in candidates if path not in named | young]
    if garbage:
        removal = partial(_remove_objects, history, garbage, age)
        yield Leftover("DVC cache", UNREFERENCED, len(garbage), room(garbage), removal)
    if young:
        yield _kept_for_age("DVC cache", len(young), room(young), age)
    entries = [path for path in _dangling(history, garbage) if age.passed(path)]
    if entries:
        removal = partial(_remove_entries, history, entries)
        reason = "the outputs that they would restore are gone, and there is no remote to fetch them from"
        yield Leftover("DVC run-cache", reason, len(entries), room(entries), removal)


def _kept_for_age(kind: str, count: int, size: int | None, age: Age) -> Leftover:
    return Leftover(kind, f"unreferenced, but younger than {age.written}", count, size, state="kept")


def _unused(workspace: Workspace, *options: str) -> list[Path]:
    """List what DVC would remove."""
    done = run_dvc(Workspace(workspace.checkout), *EVERY_COMMIT, *options, "--dry")
    if done.returncode != 0:
        raise HistopipeError(f"DVC can't list unused objects ({error_line(done)}): see `dvc gc --all-commits --dry`")
    return [Path(match["path"]) for match in _REMOVING.finditer(done.stdout)]


def _hash(path: Path) -> str:
    return path.parent.name + path.name


def _dangling(history: History, garbage: Sequence[Path]) -> list[Path]:
    """List run-cache entries that name an output which isn't in the cache, or won't be."""
    listed = run_dvc(Workspace(history.workspace.checkout), "remote", "list")
    if listed.returncode != 0 or listed.stdout.strip():
        return []
    gone = {_hash(path) for path in garbage}
    return [entry for entry in (history.cache / "runs").glob("*/*/*") if _lacks_output(entry, history, gone)]


def _lacks_output(entry: Path, history: History, gone: Container[str] = ()) -> bool:
    """Return whether a run-cache entry names an output that is among those `gone`, or isn't in the cache."""
    try:
        outputs = HASH.findall(entry.read_text(encoding="utf-8").partition("outs:")[2])
    except (OSError, UnicodeDecodeError):
        return False
    return any(name in gone or not history.object(name).exists() for name in outputs)


def _remove_objects(history: History, paths: Sequence[Path], age: Age) -> None:
    """Delete objects, except those that have been written, or named in a `dvc.lock`, since they were listed.

    Lists of folders are deleted before their files, so that a killed process leaves no list of missing files.
    """
    with _repository_lock(history.workspace):
        named = history.reread().hashes
        unneeded = [path for path in paths if _hash(path) not in named and age.passed(path)]
        for path in sorted(unneeded, key=lambda path: path.suffix != ".dir"):
            _delete(path)


def _remove_entries(history: History, entries: Sequence[Path]) -> None:
    """Delete run-cache entries, except those whose outputs are all in the cache: restored or not removed."""
    with _repository_lock(history.workspace):
        for entry in entries:
            if _lacks_output(entry, history):
                _delete(entry)


def _delete(path: Path) -> None:
    path.unlink(missing_ok=True)
    with suppress(OSError):  # it may hold other files
        path.parent.rmdir()


@contextmanager
def _repository_lock(workspace: Workspace) -> Iterator[None]:
    """Hold DVC's own lock on the checkout, a `flock` like that of `zc.lockfile`.

    Raises:
        BusyError: a DVC command holds it.
    """
    path = workspace.checkout / ".dvc" / "tmp" / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BusyError("a DVC command is running here: wait for it to end, then run this again") from None
        yield


def in_remote(history: History, age: Age) -> Iterator[Leftover]:
    """Find objects of the default remote that no commit known here uses.

    Raises:
        HistopipeError: there is no remote, DVC can't reach it, or would remove more than these.
    """
    if is_shared(history.cache, history.workspace):
        raise HistopipeError("--cloud would clean the shared cache too: use `dvc gc --cloud --projects OTHER …`")
    unused = [path for path in _unused_anywhere(history, age) if not path.is_relative_to(history.cache)]
    if unused:
        reason = "no commit known here uses them; OTHER CLONES' UNPUSHED COMMITS MAY. Removed by `dvc gc --cloud`"
        yield Leftover("DVC remote", reason, len(unused), None, partial(_clean_remote, history, age))


def _unused_anywhere(history: History, age: Age) -> list[Path]:
    """List what `dvc gc --cloud` would remove from the cache and the remote, which is all of it or nothing.

    Raises:
        HistopipeError: the removal would include objects that are kept without `--cloud`.
    """
    listed = _unused(history.workspace, "--cloud")
    if named := len({_hash(path) for path in listed} & history.hashes):
        raise HistopipeError(
            f"`dvc gc --cloud` would also remove {named} objects that a commit's dvc.lock names for stages that "
            "params.yaml doesn't have now: nothing is removed; list their data sets and architectures there first"
        )
    own = (path for path in listed if path.is_relative_to(history.cache))
    if young := sum(not age.passed(path) for path in own):
        raise HistopipeError(
            f"`dvc gc --cloud` would also remove {young} objects of the cache that are younger than {age.written}: "
            "nothing is removed; run this again when they are older, or with --older-than 0d"
        )
    return listed


def _clean_remote(history: History, age: Age) -> None:
    _unused_anywhere(history.reread(), age)  # a stage or a commit may need some of it by now
    done = run_dvc(Workspace(history.workspace.checkout), *EVERY_COMMIT, "--cloud", "--force")
    if done.returncode != 0:
        raise HistopipeError(f"DVC could not clean the remote ({error_line(done)}): run this again to continue")
