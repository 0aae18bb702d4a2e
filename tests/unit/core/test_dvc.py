"""What DVC leaves in its cache, and what it wants of a checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.command import one_line_errors
from histopipe.core.dvc import remove_damaged_rwlock, require_repository, run_dvc, rwlock_path
from histopipe.core.locking import exclusive_lock
from histopipe.core.stages.running import running
from histopipe.core.workspace import Workspace
from histopipe.operations.doctor import services
from tests.builders.paths import ROOT


@pytest.fixture
def folder(workspace: Workspace) -> Path:
    found = workspace.checkout / ".dvc/cache/files/md5/35"
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


STAGES = "stages: {split: {cmd: echo case_id > split.csv, outs: [split.csv]}}\n"


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    """A checkout as a downloaded ZIP leaves it: without git."""
    for name in (".dvc/config", "Makefile", "params.yaml", "pyproject.toml", "requirements.lock", "run"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "dvc.yaml").write_text(STAGES)
    return tmp_path


@pytest.mark.slow
def test_a_downloaded_zip_is_told_what_it_lacks(
    unpacked: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(unpacked)
    with pytest.raises(SystemExit) as ended, one_line_errors():
        pytest.fail("a flow starts")
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert (
        said.count("\n") == 1 and "is no git repository" in said and "clone histopipe instead, or run here `git" in said
    )
    found = services.check_dvc(Workspace(unpacked))
    assert found.state == "error" and "`dvc config --local core.no_scm true`" in found.remedy
    subprocess.run(["git", "init", "--quiet"], cwd=unpacked, check=True)
    require_repository(Workspace(unpacked))
    assert services.check_dvc(Workspace(unpacked)).state == "ok"


@pytest.mark.slow
def test_make_sets_a_downloaded_zip_up_to_run_without_git(unpacked: Path) -> None:
    commands = Path(sys.executable).parent
    make = ["make", f"BIN={commands}", f"--assume-old={commands}/.ready", "repository"]
    first, again = (
        subprocess.run(make, cwd=unpacked, capture_output=True, text=True, check=True).stderr for _ in range(2)
    )
    assert "no git repository here: results will name no commit" in first and not again
    require_repository(Workspace(unpacked))
    done = run_dvc(Workspace(unpacked), "repro")
    assert done.returncode == 0 and (unpacked / "split.csv").exists(), done.stderr


def test_a_git_repository_keeps_its_settings(unpacked: Path) -> None:
    subprocess.run(["git", "init", "--quiet"], cwd=unpacked, check=True)
    commands = Path(sys.executable).parent
    make = ["make", f"BIN={commands}", f"--assume-old={commands}/.ready", "repository"]
    assert not subprocess.run(make, cwd=unpacked, capture_output=True, text=True, check=True).stderr
    assert not (unpacked / ".dvc/config.local").exists()


@pytest.mark.slow
@pytest.mark.parametrize("content", ["", '{"write": {'])
def test_dvc_runs_again_after_a_kill_cut_its_list_of_locked_paths_off(tmp_path: Path, content: str) -> None:
    (tmp_path / "dvc.yaml").write_text(STAGES)
    workspace = Workspace(tmp_path)
    run_dvc(workspace, "init", "--no-scm")
    rwlock_path(workspace).write_text(content)
    assert "JSON structure is corrupted" in run_dvc(workspace, "repro").stderr
    found = services.check_dvc(workspace)
    assert (found.state, found.remedy) == ("error", "`histopipe doctor --mend`")
    with exclusive_lock(rwlock_path(workspace).with_name("rwlock.lock")):  # DVC is about to fill it
        assert not remove_damaged_rwlock(workspace) and rwlock_path(workspace).read_text() == content
    assert remove_damaged_rwlock(workspace)
    assert run_dvc(workspace, "repro").returncode == 0
    assert not remove_damaged_rwlock(workspace) and rwlock_path(workspace).exists()
