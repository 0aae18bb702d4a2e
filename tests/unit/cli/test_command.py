"""The command line stays light until a stage needs its libraries."""

from __future__ import annotations

import errno
import subprocess
import sys
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

from histopipe.cli import main
from histopipe.core.errors import BusyError, SplitError
from histopipe.core.workspace import Workspace

HEAVY = ("tensorflow", "keras", "pandas", "numpy", "mlflow", "pydantic", "sklearn", "matplotlib")


def test_help_loads_nothing_heavy() -> None:
    code = f"import sys\nimport histopipe.cli\nprint([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_runs_without_anything_heavy() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "histopipe", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "Usage:" in done.stdout
    loaded = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "click" in loaded
    assert not loaded & {*HEAVY, "psutil", "filelock", "yaml", "prefect", "dvc"}


def test_help_lists_every_stage() -> None:
    shown = CliRunner().invoke(main, ["--help"])
    assert shown.exit_code == 0
    stages = "synth locate fetch ingest split train evaluate compare promote rollback search trial"
    for stage in stages.split():
        assert f"\n  {stage} " in shown.output


@pytest.mark.parametrize("arguments", [["ingestt"], ["train", "idc"], ["ingest", "--fast"]])
def test_a_wrong_command_line_ends_with_two(arguments: list[str]) -> None:
    assert CliRunner().invoke(main, arguments).exit_code == 2


@pytest.mark.parametrize(
    "arguments",
    [["ingest", "a/b"], ["ingest", "../idc"], ["split", "a/b", "--diff", "HEAD"], ["train", "idc", "x/y"]],
)
def test_a_name_with_a_path_in_it_makes_no_file(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(workspace.root)
    before = sorted(workspace.root.rglob("*"))
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith("histopipe: '")
    assert done.stderr.count("\n") == 1
    assert sorted(workspace.root.rglob("*")) == before


def failing_locate(workspace: Workspace, monkeypatch: pytest.MonkeyPatch, problem: Exception) -> Result:
    def fail(*_: object) -> None:
        raise problem

    monkeypatch.chdir(workspace.root)
    monkeypatch.setattr("histopipe.ingest.sources.stage.locate", fail)
    return CliRunner().invoke(main, ["locate", "idc"])


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (OSError(errno.ENOSPC, "No space left"), "the disk: No space left: make room, then run again"),
        (OSError(errno.EDQUOT, "Over quota", "a.zip"), "a.zip: Over quota: make room within your quota, then run"),
        (OSError(errno.EACCES, "Denied", "a.zip"), "a.zip: Denied: give yourself permission to read and write it"),
        (OSError(errno.EROFS, "Read-only", "a.zip"), "a.zip: Read-only: choose a path on a writable disk"),
        (OSError(errno.ENOENT, "No such file", "a.zip"), "a.zip: No such file: restore it or correct its path"),
        (OSError(errno.ENOLCK, "No locks"), "the disk: No locks: keep the checkout on a file system that supports"),
        (SplitError("too few"), "too few"),
    ],
)
def test_what_a_user_can_mend_is_one_line(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, problem: Exception, said: str
) -> None:
    done = failing_locate(workspace, monkeypatch, problem)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"histopipe: {said}")
    assert done.stderr.count("\n") == 1


def test_a_disk_with_room_but_no_more_files_is_told_as_that(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = SimpleNamespace(f_files=1000, f_favail=0, f_bavail=10**6)
    monkeypatch.setattr("histopipe.cli.command.os.statvfs", lambda path: state)
    done = failing_locate(workspace, monkeypatch, OSError(errno.ENOSPC, "No space left", "a.zip"))
    assert done.exit_code == 2
    assert "no inodes left for new files (`df -i`): remove some files" in done.stderr


@pytest.mark.parametrize(
    "problem", [OSError("odd"), OSError(errno.ENOENT, "No such file"), ConnectionResetError(errno.ECONNRESET, "reset")]
)
def test_other_faults_keep_their_traceback(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    done = failing_locate(workspace, monkeypatch, problem)
    assert done.exit_code == 1
    assert done.exception is problem


def test_a_busy_stage_ends_with_75(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    assert failing_locate(workspace, monkeypatch, BusyError("busy")).exit_code == 75
