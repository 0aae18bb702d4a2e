"""A stage that hangs is ended with all that it started."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.checkouts import change_params
from histopipe.core.workspace import Workspace
from tasks import timeouts
from tasks.processes import TookTooLong
from tasks.reproduction import reproduce
from tests.builders.stage_processes import child

# two generations that ignore a polite end; the younger one holds the pipe open, as a worker process does
STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.fork()
open(f"{sys.argv[1]}/{os.getpid()}", "w").close()
print("hanging", flush=True)
time.sleep(600)
"""


def hang(monkeypatch: pytest.MonkeyPatch, workspace: Workspace, pids: Path) -> None:
    """Let a child that never ends stand in for `dvc`."""
    child(monkeypatch, workspace, exit_code=0, code=STUBBORN.replace("sys.argv[1]", repr(str(pids))))


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "setting"), [("train@idc-x", "train"), ("train_variant@idc-x-fold-0", "train")])
def test_it_is_ended_after_its_time_and_the_message_names_the_setting(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stage: str, setting: str
) -> None:
    change_params(workspace.root, flow={"timeouts": {setting: 2 / timeouts.HOUR}})
    pids = tmp_path / "pids"
    pids.mkdir()
    hang(monkeypatch, workspace, pids)
    started = time.monotonic()
    with pytest.raises(TookTooLong, match=rf"^{stage} was ended after .* flow\.timeouts\.{setting} in params\.yaml"):
        reproduce(stage)
    assert time.monotonic() - started < 300
    left = [int(path.name) for path in pids.iterdir()]
    assert len(left) == 2
    gone = time.monotonic() + 60
    while any(alive(pid) for pid in left):
        assert time.monotonic() < gone
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_one_that_ends_in_time_is_left_alone() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    with timeouts.Alarm(ended, 60).set() as alarm:
        assert ended.wait() == 0
    assert not alarm.rang


def test_every_stage_has_a_time(workspace: Workspace) -> None:
    stages = ["locate", "fetch", "ingest", "split", "weights", "train", "evaluate", "compare", "promote", "predict"]
    variants = ["split_variant", "train_variant", "evaluate_variant", "trial", "study", "search"]
    for stage in (*stages, *variants):
        assert timeouts.seconds_for(f"{stage}@idc", workspace) >= 600


def test_unreadable_parameters_are_the_stages_to_tell(workspace: Workspace) -> None:
    workspace.params.write_text("nonsense: [")
    assert timeouts.hours_for("train@idc-x", workspace) == 72
