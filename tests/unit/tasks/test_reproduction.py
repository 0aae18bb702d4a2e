"""A stage as a child process: its log line by line, and why it failed."""

from __future__ import annotations

import logging
from typing import Any
from uuid import uuid4

import pytest
from prefect.states import Failed

from histopipe.core.files import write_json
from histopipe.core.workspace import Workspace
from tasks import artifacts, processes
from tasks.distributed import stages
from tasks.processes import BadInput, Busy, StageFailed, worth_retrying
from tasks.reproduction import reproduce
from tests.builders.stage_processes import child


def test_a_progress_bar_is_logged_once(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    child(monkeypatch, workspace, exit_code=0)
    shown: list[str] = []
    reproduce("train@idc-x", on_line=shown.append)
    assert shown == ["drawing 200", "epoch 1/2: loss 0.5", "not \ufffd text", "redrawn every 10"]


def test_a_stage_finds_the_variables_it_is_given(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    child(monkeypatch, workspace, exit_code=0)
    shown: list[str] = []
    reproduce("train@idc-x", on_line=shown.append, environment={"GREETING": "hello"})
    assert shown[-1] == "hello"


@pytest.mark.parametrize(
    ("stage", "is_read"), [("split@idc", True), ("weights@x", True), ("fetch@idc", False), ("train@idc-x", False)]
)
def test_what_workers_read_is_pushed_by_the_stage_that_gave_it(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, stage: str, is_read: bool
) -> None:
    child(monkeypatch, workspace, exit_code=0)
    pushed: list[str] = []
    monkeypatch.setattr(stages, "share", pushed.extend)
    monkeypatch.setattr(stages, "is_distributed", lambda: True)
    reproduce(stage)
    assert pushed == ([stage] if is_read else [])


def test_a_failure_shows_the_end_of_the_log(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    child(monkeypatch, workspace, exit_code=1)
    with pytest.raises(StageFailed, match=r"train@idc-x failed: epoch 1/2: loss 0\.5 \| .* \| redrawn every 10"):
        reproduce("train@idc-x")


@pytest.mark.parametrize(
    ("problem", "expected"),
    [(BadInput("no"), False), (StageFailed("away"), True), (Busy("busy"), True), (RuntimeError("odd"), True)],
)
def test_bad_input_alone_is_not_retried(problem: Exception, expected: bool) -> None:
    assert worth_retrying(None, None, Failed(data=problem)) is expected


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("bad_input", BadInput),
        ("busy", Busy),
        ("unreachable", StageFailed),
        ("error", StageFailed),
        ("interrupted", StageFailed),
    ],
)
def test_the_reason_left_by_a_stage_decides(workspace: Workspace, kind: str, expected: type[Exception]) -> None:
    reason = {"stage": "split@idc", "kind": kind, "error": "OSError", "message": "what happened"}
    write_json(workspace.failure("split@idc"), reason)
    problem = processes._failure("split@idc", workspace, ["dvc's own words"])
    assert type(problem) is expected
    assert str(problem) == "split@idc: what happened"


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (["ERROR: 'data' is busy, it is being blocked by: 12"], Busy),
        (["ERROR: Unable to acquire lock"], Busy),
        (["Killed"], StageFailed),
        ([], StageFailed),
    ],
)
def test_without_a_reason_the_log_decides(workspace: Workspace, log: list[str], expected: type[Exception]) -> None:
    assert type(processes._failure("split@idc", workspace, log)) is expected


def test_a_stale_reason_is_not_taken_for_a_new_one(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(workspace.failure("train@idc-x"), {"kind": "bad_input", "error": "x", "message": "long ago"})
    child(monkeypatch, workspace, exit_code=1)
    with pytest.raises(StageFailed) as caught:
        reproduce("train@idc-x")
    assert type(caught.value) is StageFailed


def test_a_progress_bar_that_cannot_be_updated_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise ConnectionError("the server is away")

    warned: list[str] = []
    plain = logging.getLogger("test")
    monkeypatch.setattr(plain, "warning", lambda text, *values: warned.append(text % values))
    monkeypatch.setattr(artifacts, "task_logger", lambda: plain)
    monkeypatch.setattr(artifacts, "create_progress_artifact", lambda **_: uuid4())
    monkeypatch.setattr(artifacts, "update_progress_artifact", away)
    read = artifacts.epoch_progress("Epochs", "epochs")
    read("epoch 1/2: loss 0.5")
    read("nothing to see")
    assert warned == ["the progress bar wasn't updated: the server is away"]
