"""What surrounds a stage: locks, failure records, an end with its parent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from histopipe.core.errors import BusyError, SplitError
from histopipe.core.stages import running as stages
from histopipe.core.stages.running import read_failure, running
from histopipe.core.workspace import Workspace, stage_name

SLEEPER = """
import sys, time
from pathlib import Path
from histopipe.core.workspace import Workspace
from histopipe.core.stages.running import running
with running("train@idc-x", Workspace(Path(sys.argv[1]))):
    Path(sys.argv[1], "started").write_text("")
    time.sleep(60)
"""


def wait_for(condition: object, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_stage_names_are_those_of_the_matrix() -> None:
    assert stage_name("train", "idc", "cancernet") == "train@idc-cancernet"
    assert stage_name("split", "idc") == "split@idc"


def test_bad_input_is_left_on_record_and_success_clears_it(workspace: Workspace) -> None:
    with pytest.raises(SplitError), running("split@idc", workspace):
        raise SplitError("too few cases")
    reason = read_failure("split@idc", workspace)
    assert reason == {
        "stage": "split@idc",
        "kind": "bad_input",
        "error": "SplitError",
        "message": "too few cases",
    }
    with running("split@idc", workspace):
        pass
    assert read_failure("split@idc", workspace) is None


def test_other_failures_are_told_apart(workspace: Workspace) -> None:
    with pytest.raises(RuntimeError), running("split@idc", workspace):
        raise RuntimeError("server away")
    reason = read_failure("split@idc", workspace)
    assert reason is not None
    assert reason["kind"] == "error"


def test_a_second_process_is_refused_and_the_first_goes_on(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "LOCK_SECONDS", 0.3)
    first = subprocess.Popen([sys.executable, "-c", SLEEPER, str(workspace.root)])
    try:
        wait_for((workspace.root / "started").exists)
        with (
            pytest.raises(BusyError, match="train@idc-x is running in another process"),
            running("train@idc-x", workspace),
        ):
            pass
        assert first.poll() is None
    finally:
        first.kill()
        first.wait()
    with running("train@idc-x", workspace):  # the lock of a killed process is free
        pass


@pytest.mark.parametrize("through_shell", [False, True])
def test_a_stage_ends_within_seconds_of_its_parent(tmp_path: Path, through_shell: bool) -> None:
    """The parent stands for `dvc`, which may start the stage behind a shell."""
    script = tmp_path / "stage.py"
    script.write_text(SLEEPER)
    command = [sys.executable, str(script), str(tmp_path)]
    if through_shell:
        command = ["/bin/sh", "-c", f"'{sys.executable}' '{script}' '{tmp_path}'; true"]
    parent = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess; subprocess.run({command!r})"],
        env=os.environ | {"DVC_STAGE": "train@idc-x"},
    )
    wait_for((tmp_path / "started").exists)
    stage = next(
        child for child in psutil.Process(parent.pid).children(True) if "stage.py" in str(child.cmdline()[1:2])
    )
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    stage.wait(timeout=5)


def test_a_command_typed_by_a_person_outlives_its_shell(tmp_path: Path) -> None:
    script = tmp_path / "stage.py"
    script.write_text(SLEEPER)
    command = [sys.executable, str(script), str(tmp_path)]
    parent = subprocess.Popen([sys.executable, "-c", f"import subprocess; subprocess.run({command!r})"])
    wait_for((tmp_path / "started").exists)
    stage = psutil.Process(parent.pid).children(True)[0]
    parent.kill()
    parent.wait()
    time.sleep(2)
    assert stage.is_running()
    stage.kill()


def test_a_failure_record_is_json_for_tasks(workspace: Workspace) -> None:
    with pytest.raises(KeyboardInterrupt), running("train@idc-x", workspace):
        raise KeyboardInterrupt
    assert json.loads(workspace.failure("train@idc-x").read_text())["kind"] == "interrupted"


def test_an_experiment_folder_belongs_to_the_enclosing_checkout() -> None:
    inside = Workspace(Path("/lab/project/.dvc/tmp/exps/tmpx1"))
    assert inside.checkout == Path("/lab/project")
    assert Workspace(Path("/lab/project")).checkout == Path("/lab/project")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"kind": "busy"}'])
def test_a_damaged_record_of_a_failure_is_none(workspace: Workspace, content: str) -> None:
    workspace.failure("split@idc").parent.mkdir()
    workspace.failure("split@idc").write_text(content)
    assert read_failure("split@idc", workspace) is None
