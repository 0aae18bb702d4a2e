"""Promotions in processes of their own: several at once, killed ones, and servers that go away."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from histopipe.cli import main
from histopipe.core.errors import BusyError, TrackingUnreachableError
from histopipe.core.files import file_digest, read_json
from histopipe.core.workspace import Workspace
from histopipe.evaluation import mlflow_run
from histopipe.promotion.stage import promote
from histopipe.tracking.registry import Registry
from tests.builders.paths import ROOT
from tests.builders.promotions import asked, content, versions
from tests.builders.registry import NAME, aliases, client, tags
from tests.builders.servers import free_port


def start(workspace: Workspace, *command: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=workspace.root,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_promotions_at_once_leave_one_champion(workspace: Workspace) -> None:
    rivals = [start(workspace, "-m", "histopipe", "promote", "idc") for _ in range(2)]
    ends = [(*rival.communicate(timeout=300), rival.returncode) for rival in rivals]
    assert sorted(code for *_, code in ends)[0] == 0, ends
    assert {code for *_, code in ends} <= {0, 75}, ends  # 75: the other one was at it for too long
    assert aliases(workspace) == {"champion": "1"}
    assert versions(workspace) == 1


def test_two_different_promotions_at_once_take_turns_at_the_registry(workspace: Workspace) -> None:
    """Without the stage's lock, as two notebooks would: the second one is measured against the first."""
    code = (
        "import sys, pathlib, yaml; from histopipe.core.params import parse_params\n"
        "from histopipe.core.workspace import Workspace\n"
        "from histopipe.promotion.stage import promote\n"
        "content = yaml.safe_load(pathlib.Path('params.yaml').read_text()) | {'architectures': sys.argv[1:]}\n"
        "print(promote('idc', parse_params(content), Workspace(pathlib.Path.cwd())))"
    )
    both = [start(workspace, "-c", code, name) for name in ("good", "better")]
    for process in both:
        assert process.communicate(timeout=300) and process.returncode == 0
    later = str(max(int(version.version) for version in client(workspace).search_model_versions(f"name = '{NAME}'")))
    assert later == "2" and list(aliases(workspace)).count("champion") == 1
    assert tags(workspace, later)["gate.difference"] in ("passed", "failed"), "was measured against the first"


def test_an_alias_that_moved_meanwhile_is_left_alone(workspace: Workspace) -> None:
    """Another machine may move it, which the checkout's lock doesn't bind."""
    promote("idc", asked("good"), workspace)
    registry = Registry(NAME, client(workspace))
    version = registry.client.create_model_version(NAME, str(registry.client.get_model_version(NAME, "1").source))
    with pytest.raises(BusyError, match="changed meanwhile: run the same command again"):
        registry.set_champion(version, None)
    assert aliases(workspace) == {"champion": "1"}


def test_a_killed_process_leaves_the_old_champion(workspace: Workspace) -> None:
    """A real kill, right before the alias would move."""
    promote("idc", asked("good"), workspace)
    workspace.params.write_text(yaml.safe_dump(content("better")))
    code = (
        "import os, signal\n"
        "from histopipe.tracking.registry import Registry\n"
        "Registry.set_champion = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from histopipe.cli import main\n"
        "main(['promote', 'idc'])\n"
    )
    process = start(workspace, "-c", code)
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL
    assert aliases(workspace) == {"champion": "1"}
    assert promote("idc", asked("better"), workspace).promoted
    assert versions(workspace) == 2


def serve(workspace: Workspace, port: int) -> subprocess.Popen[str]:
    """A real tracking server on the workspace's database."""
    command = ["-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    server = start(workspace, *command, "--backend-store-uri", f"sqlite:///{workspace.root}/mlflow.db")
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert server.poll() is None
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return server
        time.sleep(0.3)
    stop(server)
    pytest.fail("the server did not start")


def stop(server: subprocess.Popen[str]) -> None:
    for child in _family(server.pid):
        os.kill(child, signal.SIGKILL)
    server.communicate(timeout=30)


def _family(pid: int) -> list[int]:
    import psutil

    return [process.pid for process in (*psutil.Process(pid).children(recursive=True), psutil.Process(pid))]


def test_a_registry_that_goes_away_midway_costs_nothing(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real server, killed when the version is made but not yet champion; the call carries on where that ended."""
    port = free_port()
    server = serve(workspace, port)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.chdir(workspace.root)
    real = Registry.register

    def last_words(registry: Registry, *arguments: Any, **options: Any) -> Any:
        version = real(registry, *arguments, **options)
        stop(server)
        return version

    try:
        assert promote("idc", asked("good"), workspace).promoted
        with monkeypatch.context() as patch:
            patch.setattr(Registry, "register", last_words)
            with pytest.raises(TrackingUnreachableError, match="run the same command again") as problem:
                promote("idc", asked("better"), workspace)
        assert "\n" not in str(problem.value)
        monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES")  # a dead server is told of at once all the same
        away = CliRunner().invoke(main, ["promote", "idc"])
        assert (away.exit_code, away.stderr.count("\n")) == (2, 1), away.stderr
        assert f"no MLflow server answers at http://127.0.0.1:{port}: " in away.stderr
        assert read_json(workspace.failure("promote@idc"))["kind"] == "unreachable"
    finally:
        if server.poll() is None:
            stop(server)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert aliases(workspace) == {"champion": "1"}
    assert promote("idc", asked("better"), workspace).promoted
    assert aliases(workspace) == {"champion": "2"}
    assert (versions(workspace), tags(workspace, "2")["previous_champion"]) == (2, "1")


def test_a_server_that_goes_away_while_a_model_is_evaluated_is_one_line_and_keeps_what_there_was(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    server = serve(workspace, port)
    before = file_digest(workspace.evaluation("idc", "good") / "metrics.json")
    real = mlflow_run.log_files

    def after_its_end(folder: Path) -> None:
        stop(server)
        real(folder)

    try:
        with monkeypatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
            patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
            patch.chdir(workspace.root)
            patch.setattr(mlflow_run, "log_files", after_its_end)
            ended = CliRunner().invoke(main, ["evaluate", "idc", "good"])
    finally:
        if server.poll() is None:
            stop(server)
    said = [line for line in ended.stderr.splitlines() if line.startswith("histopipe: ")]
    assert (ended.exit_code, len(said)) == (2, 1), ended.stderr
    assert "MLflow at http://127.0.0.1 can't be used" in said[0]
    assert read_json(workspace.failure("evaluate@idc-good"))["kind"] == "unreachable"
    assert file_digest(workspace.evaluation("idc", "good") / "metrics.json") == before
