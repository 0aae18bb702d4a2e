"""DVC, as a child process: the library doesn't import it."""

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

BROKEN_OFF_SECONDS = 60.0  # without a write, after which a copy that no process has open is none that goes on


def run_dvc(workspace: Workspace, *arguments: str, seconds: float | None = None) -> subprocess.CompletedProcess[str]:
    """Run one of DVC's commands in the checkout, to its end.

    Args:
        workspace: the checkout.
        arguments: of the command.
        seconds: to wait at most; a command that takes longer is ended, and counts as failed.
    """
    command = [sys.executable, "-m", "dvc", *arguments]
    try:
        return subprocess.run(command, cwd=workspace.root, capture_output=True, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"no answer within {seconds:.0f} s")


def require_repository(workspace: Workspace) -> None:
    """Check that DVC works here: in a git repository, or told to do without.

    Raises:
        HistopipeError: neither, as in a ZIP that was downloaded instead of cloned.
    """
    home = workspace.home
    if any((folder / ".git").exists() for folder in (home, *home.parents)):
        return
    if run_dvc(Workspace(home), "config", "core.no_scm").stdout.strip().lower() in ("true", "yes", "on", "1"):
        return
    raise HistopipeError(
        f"{home} is no git repository (an unpacked ZIP is none), which DVC asks for: clone histopipe instead, or here "
        "`git init && git add --all && git commit -m start`; or do without, by `dvc config --local core.no_scm true`"
    )


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """What a failed command says of its failure, in one short line."""
    lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR: ")]
    return (errors or lines or ["no answer"])[-1].removeprefix("ERROR: ")[:120]


def lock_list(workspace: Workspace) -> Path:
    """Return the path of DVC's list of who reads and writes what at the moment."""
    return workspace.home / ".dvc" / "tmp" / "rwlock"


def is_cut_off(path: Path) -> bool:
    """Tell whether DVC's list of locked paths can't be read, so that DVC refuses to run any stage."""
    try:
        json.loads(path.read_bytes())
    except FileNotFoundError:
        return False
    except ValueError:
        return True
    return False


def clear_cut_off_lock(workspace: Workspace) -> bool:
    """Remove DVC's list of locked paths where a kill amid its writing left it empty or half; DVC makes a new one.

    DVC empties the file and fills it again, so that a kill in between leaves what it can't read, and never mends. The
    lock by which DVC itself takes turns at the file is held meanwhile; where DVC holds it, nothing is done.

    Returns:
        Whether it was removed.
    """
    path = lock_list(workspace)
    if not is_cut_off(path):
        return False
    try:
        with exclusive_lock(path.with_name("rwlock.lock"), wait=1.0):
            if still := is_cut_off(path):
                path.unlink(missing_ok=True)
            return still
    except BusyError:
        return False


def clear_broken_copies(workspace: Workspace) -> None:
    """Remove what DVC began to copy into the checkout's own cache and never ended.

    It leaves such a part where the disk was full, one more at every try: whatever room is made would soon be taken.
    """
    parts = (workspace.home / ".dvc" / "cache" / "files").glob("*/??/.*.tmp")
    still = [path for path in parts if _is_old_and_ours(path)]
    written = _open_files() if still else set()
    for path in still:
        if path not in written:
            path.unlink(missing_ok=True)


def _is_old_and_ours(path: Path) -> bool:
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    return found.st_uid == os.getuid() and time.time() - found.st_mtime > BROKEN_OFF_SECONDS


def _open_files() -> set[Path]:
    """Files that processes have open, as far as one may see them; of our own processes all."""
    found: set[Path] = set()
    for process in psutil.process_iter():
        try:
            found.update(Path(file.path) for file in process.open_files())
        except psutil.Error:
            continue
    return found
