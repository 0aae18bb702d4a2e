"""Bring outputs of stages, and folders that belong to no stage, from clone to clone through DVC's remote."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from histopipe.core.dvc import error_line
from histopipe.core.errors import UnreachableError, one_line
from histopipe.core.workspace import Workspace
from tasks.timeouts import seconds_for

ALGORITHM = "md5"  # DVC's own: a file pushed once is there for whichever stage's output holds it


def share(stages: Sequence[str]) -> None:
    """Push the outputs of these stages, and the run-cache, to DVC's remote.

    Raises:
        UnreachableError: there is no remote, or it can't be written.
    """
    _run("written", "push", "--run-cache", *stages)


def fetch_inputs(stages: Sequence[str]) -> None:
    """Bring the outputs of these stages here as `dvc.lock` has them, whatever lies there.

    Raises:
        UnreachableError: there is no remote, or it can't be read.
    """
    if stages:
        _run("read", "pull", "--force", *stages)


def share_folder(folder: Path) -> str:
    """Push a folder that no stage has as its output.

    Returns:
        The digest by which `fetch_folder` brings it to another clone.

    Raises:
        UnreachableError: there is no remote, or it can't be written.
    """
    from dvc.fs import LocalFileSystem
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.transfer import transfer

    with _opened("written") as repo:
        cache = repo.cache.local
        staged, _, found = build(cache, str(folder), LocalFileSystem(), ALGORITHM)
        _require_whole(transfer(staged, cache, {found.hash_info}, shallow=False))
        for objects in (_files(found), {found.hash_info}):  # the list last: who finds it finds the files
            _require_whole(repo.cloud.push(objects))
        return str(found.hash_info.value)


def fetch_folder(digest: str, folder: Path) -> None:
    """Bring a folder here that another clone shared; it is whole or not there.

    Raises:
        UnreachableError: there is no remote, it can't be read, or it doesn't hold the folder.
    """
    from dvc.fs import LocalFileSystem
    from dvc_data.hashfile import load
    from dvc_data.hashfile.checkout import checkout
    from dvc_data.hashfile.hash_info import HashInfo

    from histopipe.core.files import replaced_folder

    wanted = HashInfo(ALGORITHM, digest)
    with _opened("read") as repo, replaced_folder(folder) as beside:
        cache = repo.cache.local
        _require_whole(repo.cloud.pull({wanted}))
        found = load(cache, wanted)
        _require_whole(repo.cloud.pull(_files(found)))
        checkout(str(beside), LocalFileSystem(), found, cache, force=True, quiet=True)


def _files(tree: Any) -> set[Any]:
    return {digest for _, _, digest in tree}


def _require_whole(transferred: Any) -> None:
    if transferred.failed:
        raise OSError(f"{len(transferred.failed)} files were not transferred")


@contextmanager
def _opened(what: str) -> Iterator[Any]:
    """The checkout as DVC sees it; what fails with it is that the remote can't be `what`."""
    from dvc.repo import Repo

    try:
        with Repo(str(Workspace.around().root)) as repo:
            yield repo
    except Exception as problem:  # of DVC, of the remote's own library, of the network
        raise _away(what, one_line(problem)) from problem


def _run(what: str, *arguments: str) -> None:
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", *arguments]
    workspace = Workspace.around()
    limit = seconds_for("fetch", workspace)
    try:
        done = subprocess.run(command, cwd=workspace.root, capture_output=True, text=True, check=False, timeout=limit)
    except subprocess.TimeoutExpired:
        raise _away(what, "no end within flow.timeouts.fetch") from None
    if done.returncode != 0:
        raise _away(what, error_line(done))


def _away(what: str, said: str) -> UnreachableError:
    return UnreachableError(f"DVC's remote can't be {what} ({said})", "see `dvc remote list` and docs/production.md")
