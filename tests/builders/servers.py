"""Real servers for tests: PostgreSQL, an S3 store, MLflow and Prefect, each on a port and in a folder of its own.

MLflow and Prefect run with the commands, users and settings of compose.yaml.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import requests

from tests.builders import compose

PATIENCE = 300.0  # seconds; a busy machine is slow, not broken


def free_port() -> int:
    """Find a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(
    command: Sequence[str], log: Path, environment: Mapping[str, str], folder: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server while this lasts; the end of its log is shown where the test fails."""
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=folder, env=dict(environment), stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
        print(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}")


def wait_until(answers: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until an address answers anything but an error."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        assert process.poll() is None, "the server ended"
        try:
            if requests.get(answers, timeout=5).status_code < 500:
                return
        except requests.ConnectionError:
            time.sleep(0.3)
    pytest.fail(f"nothing answers at {answers}")


def postgres_folder() -> Path:
    """Find PostgreSQL's programs; skip the test where there are none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    if on_path := shutil.which("initdb"):
        return Path(on_path).parent
    pytest.skip("PostgreSQL is not installed: `apt-get install postgresql` brings it")


@contextmanager
def postgres(folder: Path) -> Iterator[dict[str, str]]:
    """Run PostgreSQL with compose.yaml's databases; yield the environment in which its own programs find it.

    It refuses to run as root; then the user `postgres`, which its package makes, runs it. That user can't enter
    pytest's folders, which every start of pytest closes to others again: its data lie in a folder of their own.
    """
    programs, port = postgres_folder(), free_port()
    runuser = shutil.which("runuser", path=f"{os.environ['PATH']}:/usr/sbin") or "runuser"  # root may lack that folder
    other = [runuser, "-u", "postgres", "--"] if os.geteuid() == 0 else []
    with TemporaryDirectory(prefix="histopipe-postgres-", ignore_cleanup_errors=True) as place:
        data, password = Path(place, "data"), Path(place, "password")
        password.write_text(compose.PLANTED["POSTGRES_PASSWORD"])
        for path in (Path(place), password) if other else ():
            shutil.chown(path, "postgres")
        initialise = [str(programs / "initdb"), "-D", str(data), "-U", "histopipe", "--auth=scram-sha-256", "--no-sync"]
        subprocess.run([*other, *initialise, f"--pwfile={password}"], check=True, capture_output=True, cwd="/")
        serve = [str(programs / "postgres"), "-D", str(data), "-p", str(port), "-k", str(data), "-c", "fsync=off"]
        found = {name: value for name, value in compose.environment("mlflow").items() if name.startswith("PG")}
        found |= {"PGHOST": "127.0.0.1", "PGPORT": str(port)}
        with running([*other, *serve], folder / "postgres.log", os.environ, Path("/")):
            _create_databases(programs, found)
            yield found


def _create_databases(programs: Path, found: Mapping[str, str]) -> None:
    deadline = time.monotonic() + PATIENCE
    ask = [str(programs / "psql"), "--dbname", "postgres", "--set", "ON_ERROR_STOP=1"]
    surroundings = os.environ | found
    up = [*ask, "-c", "SELECT 1"]
    while subprocess.run(up, env=surroundings, capture_output=True, check=False).returncode:
        assert time.monotonic() < deadline, "PostgreSQL does not answer"
        time.sleep(0.3)
    subprocess.run(ask, env=surroundings, input=compose.content("databases"), text=True, check=True)


@contextmanager
def s3(folder: Path) -> Iterator[dict[str, str]]:
    """Run an S3 store in memory with compose.yaml's buckets; yield the environment that leads to it."""
    address = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with running(command, folder / "s3.log", os.environ) as process:
        wait_until(f"{address}/moto-api/", process)
        found = compose.environment("buckets", AWS_ENDPOINT_URL=address)
        subprocess.run(compose.command("buckets", {}), env=os.environ | found, check=True)
        yield found


@contextmanager
def mlflow(
    folder: Path, surroundings: Mapping[str, str], database: Mapping[str, str], store: Mapping[str, str]
) -> Iterator[str]:
    """Run MLflow with compose.yaml's authentication, on PostgreSQL and S3; yield its address."""
    address = f"http://127.0.0.1:{(port := free_port())}"
    users = folder / "mlflow-users.ini"
    users.write_text(compose.content("users"))
    settings = compose.environment(
        "mlflow",
        MLFLOW_AUTH_CONFIG_PATH=str(users),
        MLFLOW_S3_ENDPOINT_URL=store["AWS_ENDPOINT_URL"],
        **database,
        **store,
    )
    options = {"--host": "127.0.0.1", "--port": str(port), "--workers": "1"}
    command = compose.command("mlflow", options, compose.PLANTED | {"MLFLOW_HOSTS": f"127.0.0.1:{port}"})
    with running(command, folder / "mlflow.log", dict(surroundings) | settings, folder) as process:
        wait_until(f"{address}/health", process)
        yield address


@contextmanager
def prefect(folder: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """Run Prefect on a database of its own, open to all; yield its API's address."""
    with prefect_process(folder, environment, free_port()) as (address, _):
        yield address


@contextmanager
def shared_prefect(folder: Path, surroundings: Mapping[str, str], database: Mapping[str, str]) -> Iterator[str]:
    """Run Prefect with compose.yaml's settings on PostgreSQL; yield its API's address."""
    address = f"http://127.0.0.1:{(port := free_port())}"
    settings = compose.environment(
        "prefect",
        PREFECT_HOME=str(folder / "prefect"),
        PREFECT_SERVER_DATABASE_HOST=database["PGHOST"],
        PREFECT_SERVER_DATABASE_PORT=database["PGPORT"],
        PREFECT_SERVER_UI_API_URL=f"{address}/api",
    )
    with prefect_process(folder, dict(surroundings) | settings, port) as (api, _):
        yield api


@contextmanager
def prefect_process(
    folder: Path, environment: Mapping[str, str], port: int
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run Prefect at a port; yield its API's address and its process."""
    address = f"http://127.0.0.1:{port}/api"
    command = compose.command("prefect", {"--host": "127.0.0.1", "--port": str(port)})
    with running(command, folder / "prefect.log", environment) as process:
        wait_until(f"{address}/health", process)
        yield address, process


def ask(address: str, what: str, credentials: tuple[str, str] | None = None) -> list[dict[str, Any]]:
    """Return what Prefect's server has of a kind."""
    answer = requests.post(f"{address}/{what}/filter", json={"limit": 200}, timeout=30, auth=credentials)
    answer.raise_for_status()
    found: list[dict[str, Any]] = answer.json()
    return found
