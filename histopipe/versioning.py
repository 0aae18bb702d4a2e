"""DVC, as a child process: the library doesn't import it."""

from __future__ import annotations

import subprocess
import sys

from histopipe.paths import Workspace


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


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """What a failed command says of its failure, in one short line."""
    lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR: ")]
    return (errors or lines or ["no answer"])[-1].removeprefix("ERROR: ")[:120]
