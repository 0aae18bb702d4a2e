"""What deployments and commands of flows share: where they run, what their forms offer, what they say."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.utilities.callables import parameter_schema

from flows import checkout
from flows.command import one_line_errors, server_refusal
from flows.monitor import monitor
from flows.pipeline import pipeline
from flows.retrain import retrain
from flows.score import score
from flows.search import search
from flows.studies import studies
from histopipe.core.errors import HistopipeError, UnreachableError
from histopipe.core.workspace import Workspace
from tasks.reproduction import may_overwrite
from tests.builders.paths import ROOT


@pytest.fixture(autouse=True)
def _comes_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_worker_runs_flows_in_the_checkout_that_it_has_them_from() -> None:
    assert checkout.enter() == {"directory": str(ROOT)}
    assert Path.cwd() == ROOT


def test_or_in_the_one_that_it_is_told(monkeypatch: pytest.MonkeyPatch, workspace: Workspace) -> None:
    monkeypatch.setenv("HISTOPIPE_HOME", str(workspace.root))
    checkout.enter()
    assert Path.cwd() == workspace.root


def test_without_a_checkout_it_says_what_to_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HISTOPIPE_HOME", str(tmp_path))
    with pytest.raises(HistopipeError, match=r"no params\.yaml in .*set HISTOPIPE_HOME to the worker's checkout"):
        checkout.enter()


def test_forms_offer_the_names_that_the_parameters_list(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace.root)
    fields = parameter_schema(pipeline.fn).model_dump()["properties"]
    assert fields["datasets"]["items"]["enum"] == ["idc"]
    assert fields["architectures"]["items"]["enum"][0] == "cancernet"
    assert fields["datasets"]["default"] == []
    fields = parameter_schema(score.fn).model_dump()["properties"]
    assert fields["dataset"]["enum"] == ["idc", "malaria", "breakhis"]
    assert fields["out"]["default"] == ""


def test_a_schedule_writes_into_one_folder_and_a_first_try_may_be_repeated(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for flow in (score, monitor):
        assert parameter_schema(flow.fn).model_dump()["properties"]["overwrite"]["default"] is True
    monkeypatch.chdir(workspace.root)
    assert may_overwrite("scores/new", requested=False)
    (workspace.root / "scores/new").mkdir(parents=True)
    assert not may_overwrite("scores/new", requested=False) and may_overwrite("scores/new", requested=True)


@pytest.mark.parametrize("flow", [monitor, pipeline, retrain, score, search, studies], ids=lambda flow: flow.name)
def test_no_form_has_a_switch_for_nothing(flow: Any) -> None:
    """Prefect's UI draws a choice of "None" where a parameter may be null."""
    assert "anyOf" not in str(parameter_schema(flow.fn).model_dump()["properties"])


def test_without_parameters_forms_take_any_name() -> None:
    assert "enum" not in parameter_schema(score.fn).model_dump()["properties"]["dataset"]


def answered(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("GET", "http://127.0.0.1:9/api")
    return httpx.HTTPStatusError("no", request=request, response=httpx.Response(status, request=request))


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (answered(401), "refuses: set PREFECT_API_AUTH_STRING"),
        (answered(403), "refuses: set PREFECT_API_AUTH_STRING"),
        (answered(500), "is in trouble (500): see its log"),
        (answered(404), None),
        (httpx.ConnectError("refused"), "start it, or set PREFECT_API_URL right"),
        (RuntimeError("Failed to reach API at http://127.0.0.1:9/api/"), "no Prefect server answers"),
        (RuntimeError("something else"), None),
    ],
)
def test_what_prefects_server_refuses_is_told_with_a_remedy(
    problem: Exception, said: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    found = server_refusal(problem)
    assert (said in found) if said and found else (found == said)
    with pytest.raises(SystemExit if said else type(problem)) as ended, one_line_errors():
        raise problem
    if said:
        assert ended.value.code == 2  # type: ignore[attr-defined]
        assert capsys.readouterr().err.startswith("histopipe: ")
    assert os.environ.get("PREFECT_API_URL") is None


def test_a_scheduler_that_went_away_is_told_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    from distributed.client import FutureCancelledError

    with pytest.raises(SystemExit) as ended, one_line_errors():
        raise FutureCancelledError("train-5f68", "scheduler-connection-lost", "Client lost the connection")
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("histopipe: train-5f68 cancelled for reason: scheduler-connection-lost.")
    assert "Start Dask's scheduler, then run again" in line


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense://here"])
def test_a_scheduler_that_never_answers_is_named_with_a_remedy(address: str) -> None:
    import dask

    from tasks.distributed import dask_runner

    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}), pytest.raises(UnreachableError) as problem:
        _ = dask_runner(address).client
    assert str(problem.value).startswith("Dask's scheduler can't be reached (")
    assert address.partition(":")[0] in str(problem.value) and "set flow.scheduler in params.yaml right" in str(
        problem.value
    )
