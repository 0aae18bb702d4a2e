"""Transfer outputs of stages, and other folders, between clones through DVC's remote."""

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

ALGORITHM = "md5"  # DVC's own, so that a file is pushed once for all stages whose outputs hold it


def share(stages: Sequence[str]) -> None:
    """Push the outputs of these stages, and the run-cache, to DVC's remote.

    Raises:
        UnreachableError: there is no remote, or it isn't writable.
    """
    _run("written", "push", "--run-cache", *stages)


def fetch_inputs(stages: Sequence[str]) -> None:
    """Fetch the outputs of these stages as `dvc.lock` names them, replacing local ones.

    Raises:
        UnreachableError: there is no remote, or it can't be read.
    """
    if stages:
        _run("read", "pull", "--force", *stages)


def share_folder(folder: Path) -> str:
    """Push a folder that is no stage's output.

    Returns:
        The digest by which `fetch_folder` fetches it in another clone.

    Raises:
        UnreachableError: there is no remote, or it isn't writable.
    """
    from dvc.fs import LocalFileSystem
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.transfer import transfer

    with _opened("written") as repo:
        cache = repo.cache.local
        staged, _, tree = build(cache, str(folder), LocalFileSystem(), ALGORITHM)
        _require_whole(transfer(staged, cache, {tree.hash_info}, shallow=False))
        for objects in (_files(tree), {tree.hash_info}):  # the tree last, so that whoever finds it finds the files
            _require_whole(repo.cloud.push(objects))
        return str(tree.hash_info.value)


def fetch_folder(digest: str, folder: Path) -> None:
    """Fetch a folder that another clone shared, whole or not at all.

    Raises:
        UnreachableError: there is no remote, it can't be read, or it doesn't hold the folder.
    """
    from dvc.fs import LocalFileSystem
    from dvc_data.hashfile import load
    from dvc_data.hashfile.checkout import checkout
    from dvc_data.hashfile.hash_info import HashInfo

    from histopipe.core.files import replaced_folder

    tree_hash = HashInfo(ALGORITHM, digest)
    with _opened("read") as repo, replaced_folder(folder) as target:
        cache = repo.cache.local
        _require_whole(repo.cloud.pull({tree_hash}))
        tree = load(cache, tree_hash)
        _require_whole(repo.cloud.pull(_files(tree)))
        checkout(str(target), LocalFileSystem(), tree, cache, force=True, quiet=True)


def _files(tree: Any) -> set[Any]:
    return {digest for _, _, digest in tree}


def _require_whole(transferred: Any) -> None:
    if transferred.failed:
        raise OSError(f"{len(transferred.failed)} files were not transferred")


@contextmanager
def _opened(access: str) -> Iterator[Any]:
    """Open the checkout's DVC repository; an error inside means that the remote can't be `access`ed."""
    from dvc.repo import Repo

    try:
        with Repo(str(Workspace.find().root)) as repo:
            yield repo
    except Exception as problem:  # of DVC, of the remote's own library, of the network
        raise _away(access, one_line(problem)) from problem


def _run(access: str, *arguments: str) -> None:
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", *arguments]
    workspace = Workspace.find()
    limit = seconds_for("fetch", workspace)
    try:
        done = subprocess.run(command, cwd=workspace.root, capture_output=True, text=True, check=False, timeout=limit)
    except subprocess.TimeoutExpired:
        raise _away(access, "no end within flow.timeouts.fetch") from None
    if done.returncode != 0:
        raise _away(access, error_line(done))


def _away(access: str, reason: str) -> UnreachableError:
    return UnreachableError(
        f"DVC's remote can't be {access} ({reason})", "see `dvc remote list` and docs/production.md"
    )
