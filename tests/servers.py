"""Real servers for tests: PostgreSQL, an S3 store, MLflow and Prefect, each on a port and in a folder of its own."""

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

import pytest
import requests

PATIENCE = 300.0  # seconds; a busy machine is slow, not broken
S3_KEYS = {
    "AWS_ACCESS_KEY_ID": "histopipe",
    "AWS_SECRET_ACCESS_KEY": "planted-s3-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
}
DATABASE_PASSWORD = "planted-database-secret"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(
    command: Sequence[str], log: Path, environment: Mapping[str, str], folder: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A server while this lasts; the end of its log is shown where the test fails."""
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
    """Until an address answers anything but an error."""
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
    """Where PostgreSQL's programs are; skips the test where there are none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    if on_path := shutil.which("initdb"):
        return Path(on_path).parent
    pytest.skip("PostgreSQL is not installed: `apt-get install postgresql` brings it")


@contextmanager
def postgres(folder: Path, *databases: str) -> Iterator[str]:
    """A PostgreSQL server with these databases; yields `USER:PASSWORD@HOST:PORT`.

    It refuses to run as root; then the user `postgres`, which its package makes, runs it.
    """
    programs, data, port = postgres_folder(), folder / "postgres", free_port()
    other = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    data.mkdir(parents=True)
    password = folder / "password"
    password.write_text(DATABASE_PASSWORD)
    if other:
        for path in (folder, *folder.parents):
            if path.owner() == "root" and path != Path("/"):
                path.chmod(path.stat().st_mode | 0o011)
        shutil.chown(data, "postgres")
        shutil.chown(password, "postgres")
    initialise = [str(programs / "initdb"), "-D", str(data), "-U", "histopipe", "--auth=scram-sha-256", "--no-sync"]
    subprocess.run([*other, *initialise, f"--pwfile={password}"], check=True, capture_output=True, cwd="/")
    serve = [str(programs / "postgres"), "-D", str(data), "-p", str(port), "-k", str(data), "-c", "fsync=off"]
    address = f"histopipe:{DATABASE_PASSWORD}@127.0.0.1:{port}"
    with running([*other, *serve], folder / "postgres.log", os.environ, Path("/")):
        for database in databases:
            _create_database(programs, address, database)
        yield address


def _create_database(programs: Path, address: str, name: str) -> None:
    deadline = time.monotonic() + PATIENCE
    command = [str(programs / "psql"), f"postgresql://{address}/postgres", "-c", f"CREATE DATABASE {name}"]
    while (done := subprocess.run(command, capture_output=True, text=True, check=False)).returncode != 0:
        assert time.monotonic() < deadline, done.stderr
        time.sleep(0.3)


@contextmanager
def s3(folder: Path, *buckets: str) -> Iterator[dict[str, str]]:
    """An S3 store in memory with these buckets; yields the environment that leads to it."""
    import boto3

    address = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with running(command, folder / "s3.log", os.environ) as process:
        wait_until(f"{address}/moto-api/", process)
        client = boto3.client(
            "s3",
            endpoint_url=address,
            aws_access_key_id=S3_KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=S3_KEYS["AWS_SECRET_ACCESS_KEY"],
            region_name=S3_KEYS["AWS_DEFAULT_REGION"],
        )
        for bucket in buckets:
            client.create_bucket(Bucket=bucket)
        yield {**S3_KEYS, "AWS_ENDPOINT_URL": address, "MLFLOW_S3_ENDPOINT_URL": address}


@contextmanager
def mlflow(folder: Path, database: str, artifacts: str, environment: Mapping[str, str]) -> Iterator[str]:
    """An MLflow server; yields its address."""
    address = f"http://127.0.0.1:{(port := free_port())}"
    options = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    store = ["--backend-store-uri", database, "--artifacts-destination", artifacts]
    command = [sys.executable, "-m", "mlflow", "server", *options, *store]
    without_jobs = dict(environment) | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # five processes of no use here
    with running(command, folder / "mlflow.log", without_jobs) as process:
        wait_until(f"{address}/health", process)
        yield address


@contextmanager
def prefect(folder: Path, environment: Mapping[str, str], database: str | None = None) -> Iterator[str]:
    """A Prefect server, on a database of its own or the one given; yields its API's address."""
    address = f"http://127.0.0.1:{(port := free_port())}/api"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    surroundings = dict(environment) | ({"PREFECT_API_DATABASE_CONNECTION_URL": database} if database else {})
    with running(command, folder / "prefect.log", surroundings) as process:
        wait_until(f"{address}/health", process)
        yield address
