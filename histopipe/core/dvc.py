"""DVC as a child process: the library doesn't import it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

from histopipe.core.errors import BusyError, HistopipeError
from histopipe.core.locking import exclusive_lock
from histopipe.core.workspace import Workspace

BROKEN_OFF_SECONDS = 60.0  # without a write, after which a copy that no process has open won't be continued


def run_dvc(workspace: Workspace, *arguments: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    """Run a DVC command in the checkout and wait for its end.

    Args:
        workspace: the checkout.
        arguments: the command and its arguments, without `dvc`.
        timeout: maximum duration in seconds; a command that takes longer is killed and returned as failed.

    Returns:
        The finished process with its exit status and output.
    """
    command = [sys.executable, "-m", "dvc", *arguments]
    try:
        return subprocess.run(command, cwd=workspace.root, capture_output=True, text=True, check=False, timeout=timeout)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"no answer within {timeout:.0f} s")


def require_repository(workspace: Workspace) -> None:
    """Check that DVC works here: in a git repository, or configured to work without one.

    Raises:
        HistopipeError: the checkout is in no git repository (for instance, a downloaded ZIP), and DVC isn't configured
            with `core.no_scm`.
    """
    home = workspace.checkout
    if any((folder / ".git").exists() for folder in (home, *home.parents)):
        return
    if run_dvc(Workspace(home), "config", "core.no_scm").stdout.strip().lower() in ("true", "yes", "on", "1"):
        return
    raise HistopipeError(
        f"{home} is no git repository (an unpacked ZIP is none), which DVC needs: clone histopipe instead, or run here "
        "`git init && git add --all && git commit -m start`; to work without git, `dvc config --local core.no_scm true`"
    )


def error_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return the error message of a failed command as one short line."""
    lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR: ")]
    return (errors or lines or ["no answer"])[-1].removeprefix("ERROR: ")[:120]


def rwlock_path(workspace: Workspace) -> Path:
    """Return the path of `rwlock`, DVC's list of paths that are being read or written."""
    return workspace.checkout / ".dvc" / "tmp" / "rwlock"


def is_rwlock_damaged(path: Path) -> bool:
    """Return whether DVC's list of locked paths (`rwlock`) is damaged, so that DVC refuses to run any stage."""
    try:
        json.loads(path.read_bytes())
    except FileNotFoundError:
        return False
    except ValueError:
        return True
    return False


def remove_damaged_rwlock(workspace: Workspace) -> bool:
    """Remove DVC's list of locked paths (`rwlock`) if a killed process left it incomplete; DVC then creates a new one.

    DVC empties the file and fills it again. A kill in between leaves a file that DVC can't read and never repairs. The
    lock with which DVC itself protects the file is held meanwhile; where DVC holds it, nothing is done.

    Returns:
        Whether the list was removed.
    """
    path = rwlock_path(workspace)
    if not is_rwlock_damaged(path):
        return False
    try:
        with exclusive_lock(path.with_name("rwlock.lock"), wait=1.0):
            if damaged := is_rwlock_damaged(path):
                path.unlink(missing_ok=True)
            return damaged
    except BusyError:
        return False


def remove_unfinished_copies(workspace: Workspace) -> None:
    """Remove unfinished copies that DVC left in the checkout's own cache.

    Whenever the disk is full, DVC leaves one behind. They add up with every attempt and fill the space that was just
    freed.
    """
    parts = (workspace.checkout / ".dvc" / "cache" / "files").glob("*/??/.*.tmp")
    abandoned = [path for path in parts if _is_old_and_ours(path)]
    in_use = _open_files() if abandoned else set()
    for path in abandoned:
        if path not in in_use:
            path.unlink(missing_ok=True)


def _is_old_and_ours(path: Path) -> bool:
    try:
        status = path.stat()
    except FileNotFoundError:
        return False
    return status.st_uid == os.getuid() and time.time() - status.st_mtime > BROKEN_OFF_SECONDS


def _open_files() -> set[Path]:
    """Return the files that processes have open, as far as this user may see them."""
    files: set[Path] = set()
    for process in psutil.process_iter():
        try:
            files.update(Path(file.path) for file in process.open_files())
        except psutil.Error:
            continue
    return files
