"""What DVC leaves in its cache."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from histopipe.paths import Workspace
from histopipe.stages import running


@pytest.fixture
def folder(workspace: Workspace) -> Path:
    found = workspace.home / ".dvc/cache/files/md5/35"
    found.mkdir(parents=True)
    return found


def left(folder: Path, name: str, age: float) -> Path:
    path = folder / name
    path.write_bytes(b"half")
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def test_a_stage_clears_away_what_a_full_disk_left(workspace: Workspace, folder: Path) -> None:
    broken = left(folder, ".bkdpPtryyl8tqe3va8ETpg.tmp", 3600)
    whole = left(folder, "0123456789abcdef0123456789abcd", 3600)
    with running("ingest@idc", workspace):
        assert not broken.exists() and whole.exists()


def test_a_copy_that_goes_on_stays(workspace: Workspace, folder: Path) -> None:
    young = left(folder, ".yoGTd7adWqxqq9yJ4FLJSA.tmp", 1)
    slow = left(folder, ".zjyw3xzFD1F6nkFA1HZaQQ.tmp", 3600)
    with slow.open("ab"), running("ingest@idc", workspace):
        assert young.exists() and slow.exists()
    with running("ingest@idc", workspace):
        assert young.exists() and not slow.exists()
