"""What is said when MLflow, or the store of its artifacts, breaks off; and how soon."""

from __future__ import annotations

import errno
import importlib
import shutil
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from histopipe.core.errors import TrackingError, TrackingUnreachableError
from histopipe.core.stages.running import failure_kind
from histopipe.core.workspace import Workspace
from histopipe.operations.doctor.services import check_runs
from histopipe.tracking.runs import training_run
from histopipe.tracking.stores import errors_in_one_line, open_client, prepare_experiment
from tests.builders.servers import free_port


def raised_by(module: str, base: str, name: str, **details: Any) -> Exception:
    """An exception of boto's: a real one where it is installed, else one made alike."""
    try:
        found: Exception = getattr(importlib.import_module(module), name)(**details)
    except ModuleNotFoundError:
        parent = type(base, (Exception,), {"__module__": module})
        found = type(name, (parent,), {"__module__": module})(str(details))
    return found


BOTO = [
    ("botocore.exceptions", "BotoCoreError", "EndpointConnectionError", {"endpoint_url": "https://s3.example"}),
    ("botocore.exceptions", "BotoCoreError", "NoCredentialsError", {}),
    (
        "botocore.exceptions",
        "ClientError",
        "ClientError",
        {"error_response": {"Error": {"Code": "403"}}, "operation_name": "PutObject"},
    ),
    ("boto3.exceptions", "Boto3Error", "S3UploadFailedError", {}),
]


@pytest.mark.parametrize(("module", "base", "name", "details"), BOTO, ids=[each[2] for each in BOTO])
def test_a_bucket_that_breaks_off_is_one_line(
    workspace: Workspace, module: str, base: str, name: str, details: dict[str, Any]
) -> None:
    with (
        pytest.raises(TrackingUnreachableError, match=r"can't be used \(.*run the same command again") as said,
        errors_in_one_line(workspace),
    ):
        raise raised_by(module, base, name, **details)
    assert "\n" not in str(said.value)


def test_a_database_s_own_words_are_told_without_the_statement(workspace: Workspace) -> None:
    from mlflow.exceptions import MlflowException

    said = (
        "(raised as a result of Query-invoked autoflush; consider using a session.no_autoflush block if this flush is "
        "occurring prematurely)\n(sqlite3.OperationalError) database or disk is full\n[SQL: INSERT INTO tags]"
    )
    with (
        pytest.raises(TrackingUnreachableError, match=r"can't be used \(database or disk is full\): check"),
        errors_in_one_line(workspace),
    ):
        raise MlflowException(said)


def test_a_connection_that_mlflow_is_refused_is_one_line(workspace: Workspace, tmp_path: Path) -> None:
    """Artifacts on a server of files, as MLflow reaches it: by FTP, nobody there."""
    import mlflow

    prepare_experiment(workspace, "idc")
    experiment = mlflow.create_experiment("elsewhere", f"ftp://127.0.0.1:{free_port()}/artifacts")
    client = mlflow.MlflowClient()
    run_id = client.create_run(experiment).info.run_id
    with pytest.raises(TrackingUnreachableError, match="Connection refused"), errors_in_one_line(workspace):
        client.log_artifact(run_id, str(workspace.params))


@pytest.mark.parametrize("problem", [OSError(errno.ENOSPC, "full", "disk"), BrokenPipeError(), ValueError("mine")])
def test_what_is_not_mlflows_is_not_put_down_to_it(workspace: Workspace, problem: Exception) -> None:
    with pytest.raises(type(problem)) as caught, errors_in_one_line(workspace):
        raise problem
    assert caught.value is problem


@pytest.fixture
def server_of_one_answer() -> Iterator[str]:
    """The address of a real server that says it is well, and is gone after that."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:

        def answer_once() -> None:
            server.handle_request()
            server.server_close()

        thread = Thread(target=answer_once)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        thread.join()


@pytest.mark.slow
def test_a_server_that_goes_away_is_told_of_within_half_a_minute(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, server_of_one_answer: str
) -> None:
    """With no word in the environment on how often MLflow should try again."""
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server_of_one_answer)
    began = time.monotonic()
    with pytest.raises(TrackingUnreachableError, match="can't be used"), errors_in_one_line(workspace):
        open_client(workspace)
    assert 5 < time.monotonic() - began < 30


@pytest.fixture
def refusing(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a real server that says it is well, and refuses everything else with a status and a text."""
    status, text = request.param

    class Refusal(BaseHTTPRequestHandler):
        def answer(self) -> None:
            well = self.path == "/health"
            self.send_response(200 if well else status)
            self.end_headers()
            self.wfile.write(b"" if well else text.encode())

        do_GET = do_POST = answer  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Refusal) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://user:secret@127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("refusing", "remedy"),
    [
        ((401, "You are not authenticated."), "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        ((403, "Permission denied"), "this account may not do that"),
        ((403, "Invalid Host header - possible DNS rebinding attack detected"), "among its --allowed-hosts"),
    ],
    indirect=["refusing"],
)
def test_a_server_that_refuses_is_told_with_a_remedy_and_not_asked_again(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, refusing: str, remedy: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", refusing)
    with pytest.raises(TrackingError, match=remedy) as caught, errors_in_one_line(workspace):
        open_client(workspace)
    assert failure_kind(caught.value) == "bad_input"
    assert "secret" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["o'neil", 'say "hi"', 'o\'neil "x" #1 50%20 ü;&[x]*$HOME', "new: one"])
def test_a_run_is_found_again_whatever_the_checkout_s_path(workspace: Workspace, name: str) -> None:
    root = workspace.root / name
    root.mkdir()
    shutil.copy(workspace.root / "mlflow.db", root)
    own, key = Workspace(root), {"training_key": "k"}
    with pytest.raises(KeyboardInterrupt), training_run(own, "idc", "x", None, key) as first:
        raise KeyboardInterrupt
    with training_run(own, "idc", "x", None, key) as second:
        assert second == first
    assert check_runs(own).state == "ok"


@pytest.mark.slow
def test_the_database_is_made_whatever_the_checkout_s_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / 'o\'neil & "co" 50%20: one'  # MLflow puts it into its first row, as SQL
    root.mkdir()
    monkeypatch.chdir(root)
    with training_run(Workspace(root), "idc", "x", None, {"training_key": "k"}) as run:
        assert run
    assert not (root / "mlruns").exists()
