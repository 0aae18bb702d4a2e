"""A byte that a disk flipped in an output or in DVC's cache, where DVC sees nothing: found, named, and mended."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.checkouts import ROOT
from histopipe.core.workspace import Workspace
from histopipe.operations.doctor.outputs import check_outputs
from histopipe.operations.doctor.repair import repair_outputs

SMALL = """
stages:
  ingest:
    matrix: {dataset: [idc]}
    cmd: mkdir -p data/store/idc && head -c 5000 /dev/zero > data/store/idc/a.npy && echo b > data/store/idc/b.json
    outs: [data/store/idc]
  split:
    matrix: {dataset: [idc]}
    cmd: mkdir -p data/splits && echo case_id,split > data/splits/idc.csv
    outs: [data/splits/idc.csv]
"""
FILES = ["data/store/idc/a.npy", "data/splits/idc.csv"]


def run(root: Path, *command: str, check: bool = True) -> str:
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def dvc(root: Path, *command: str, check: bool = True) -> str:
    return run(root, sys.executable, "-m", "dvc", *command, check=check)


@pytest.fixture
def project(tmp_path: Path) -> Callable[[str | None], Workspace]:
    def make(links: str | None) -> Workspace:
        root = tmp_path / "project"
        root.mkdir()
        (root / "dvc.yaml").write_text(SMALL)
        (root / "params.yaml").write_text("datasets: [idc]\n")
        run(root, "git", "init", "--quiet", ".")
        dvc(root, "init", "--quiet")
        shutil.copy(ROOT / ".dvc/config", root / ".dvc/config")
        if links:
            dvc(root, "config", "cache.type", links)
        dvc(root, "repro", "--quiet")
        return Workspace(root)

    return make


def flip(path: Path, *, secretly: bool) -> None:
    """Change one byte; secretly as a disk does, else as a program does."""
    before = path.stat()
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    with path.open("r+b") as stream:
        stream.write(content)
    path.chmod(before.st_mode)
    if secretly:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def contents(root: Path) -> dict[str, bytes]:
    return {name: (root / name).read_bytes() for name in FILES}


def stored(workspace: Workspace, name: str) -> Path:
    digests = {
        path.read_bytes(): path for path in (workspace.root / ".dvc/cache/files/md5").rglob("*") if path.is_file()
    }
    return digests[(workspace.root / name).read_bytes()]


def test_what_dvc_keeps_is_no_link_to_an_output(project: Callable[[str | None], Workspace]) -> None:
    workspace = project(None)
    before = contents(workspace.root)
    assert not any((workspace.root / name).samefile(stored(workspace, name)) for name in FILES)
    for name in FILES:
        flip(workspace.root / name, secretly=False)
    found = check_outputs(workspace)
    assert found.state == "warning" and all(name in found.observation for name in FILES)
    dvc(workspace.root, "checkout", "--force")
    assert contents(workspace.root) == before and check_outputs(workspace).state == "ok"


@pytest.mark.parametrize("links", [None, "hardlink", "symlink"])
def test_a_flipped_byte_is_found_and_mended(project: Callable[[str | None], Workspace], links: str | None) -> None:
    workspace = project(links)
    before = contents(workspace.root)
    for name in FILES:
        flip(workspace.root / name, secretly=True)
    assert "up to date" in dvc(workspace.root, "status"), "DVC sees it itself"
    found = check_outputs(workspace)
    assert found.state == "error" and all(name in found.observation for name in FILES)
    assert found.remedy == "`histopipe doctor --mend`"
    repair = repair_outputs(workspace)
    assert {file.path for file in repair.lost} == ({workspace.root / name for name in FILES} if links else set())
    if links:  # a link has but one copy
        dvc(workspace.root, "repro", "--quiet", *(file.maker for file in repair.lost))
    assert contents(workspace.root) == before and check_outputs(workspace).state == "ok"


def test_a_flipped_byte_of_the_cache_comes_back_from_the_checkout(
    project: Callable[[str | None], Workspace],
) -> None:
    workspace = project(None)
    before = contents(workspace.root)
    damaged = [stored(workspace, name) for name in FILES]
    for path in damaged:
        flip(path, secretly=True)
    found = check_outputs(workspace)
    assert found.state == "error" and all(
        str(path.relative_to(workspace.root)) in found.observation for path in damaged
    )
    assert set(repair_outputs(workspace).restored) == set(damaged)
    shutil.rmtree(workspace.root / "data")
    dvc(workspace.root, "checkout")
    assert contents(workspace.root) == before and check_outputs(workspace).state == "ok"


def test_a_folders_damaged_list_is_written_anew(project: Callable[[str | None], Workspace]) -> None:
    workspace = project(None)
    (listing,) = (workspace.root / ".dvc/cache/files/md5").rglob("*.dir")
    before = listing.read_bytes()
    flip(listing, secretly=True)
    assert check_outputs(workspace).state == "error"
    repair_outputs(workspace)
    assert listing.read_bytes() == before and check_outputs(workspace).state == "ok"


def test_a_linked_file_comes_back_from_the_remote(project: Callable[[str | None], Workspace], tmp_path: Path) -> None:
    workspace = project("hardlink")
    before = contents(workspace.root)
    dvc(workspace.root, "remote", "add", "--default", "kept", str(tmp_path / "remote"))
    dvc(workspace.root, "push")
    for name in FILES:
        flip(workspace.root / name, secretly=False)
    repair = repair_outputs(workspace)
    assert not repair.lost and contents(workspace.root) == before and check_outputs(workspace).state == "ok"


def test_what_was_changed_by_hand_stays(project: Callable[[str | None], Workspace]) -> None:
    workspace = project(None)
    mine = workspace.root / FILES[1]
    mine.unlink()
    mine.write_text("case_id,split\nmine,test\n")
    flip(workspace.root / FILES[0], secretly=True)
    repair_outputs(workspace)
    assert "mine" in mine.read_text()
    found = check_outputs(workspace)
    assert found.state == "warning" and "`dvc commit --force split@idc` keeps" in found.remedy
