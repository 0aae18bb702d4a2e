"""Child processes that stand in for `dvc`."""

from __future__ import annotations

import subprocess
import sys

import pytest

from histopipe.core.workspace import Workspace

BAR = r"""
import os, sys
for done in range(200):
    sys.stderr.write(f"\rdrawing {done}")
    sys.stderr.flush()
sys.stderr.write("\rdrawing 200\n")
sys.stderr.write("\rshort lived\r           \r")
sys.stderr.write("epoch 1/2: loss 0.5\r\n")
sys.stderr.flush()
sys.stderr.buffer.write(b"not \xff text\n\n")
print("redrawn every", os.environ["TQDM_MININTERVAL"])
if "GREETING" in os.environ: print(os.environ["GREETING"])
sys.exit(int(sys.argv[1]))
"""


def child(monkeypatch: pytest.MonkeyPatch, workspace: Workspace, exit_code: int, code: str = BAR) -> None:
    """Let a child stand in for `dvc`: one that draws a progress bar, or runs other code."""
    start = subprocess.Popen
    command = [sys.executable, "-c", code, str(exit_code)]
    monkeypatch.chdir(workspace.root)
    monkeypatch.delenv("TQDM_MININTERVAL", raising=False)
    monkeypatch.setattr(subprocess, "Popen", lambda _, **options: start(command, **options))
