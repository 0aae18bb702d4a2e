"""All deployments of prefect.yaml from one command: registered, scheduled and run by this process.

    python -m flows.serve

It talks to the server of PREFECT_API_URL; where none is set, it starts one and ends it with itself.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import requests

from flows.command import one_line_errors
from histopipe.core.errors import HistopipeError
from histopipe.core.files import read_yaml
from histopipe.core.workspace import Workspace

if TYPE_CHECKING:
    from prefect.deployments.runner import RunnerDeployment

PATIENCE = 120.0  # seconds for a server to start, or to answer
FILE = "prefect.yaml"
# what a flow holds of a limit is given back also when the server was started anew since
LASTING_LEASES = {
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
}


def deployments(path: Path) -> list[RunnerDeployment]:
    """What `prefect deploy --all` would register, without a work pool."""
    return [_deployment(described) for described in read_yaml(path)["deployments"]]


def _deployment(described: dict[str, Any]) -> RunnerDeployment:
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.objects import ConcurrencyLimitConfig
    from prefect.deployments.runner import RunnerDeployment

    schedules = [
        DeploymentScheduleCreate.model_validate({"schedule": schedule}) for schedule in described.get("schedules", [])
    ]
    return RunnerDeployment.from_entrypoint(
        described["entrypoint"],
        described["name"],
        schedules=schedules or None,
        parameters=described.get("parameters"),
        description=described.get("description"),
        tags=described.get("tags"),
        concurrency_limit=ConcurrencyLimitConfig.model_validate(described["concurrency_limit"]),
    )


@contextmanager
def server_at(port: int) -> Iterator[str]:
    """A Prefect server while this lasts; yields its API's address.

    Raises:
        HistopipeError: the port is taken, or the server didn't start.
    """
    address = f"http://127.0.0.1:{port}/api"
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise HistopipeError(
                f"port {port} is taken: set PREFECT_API_URL={address} if a server runs there, or --port"
            )
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    # a session of its own: Ctrl-C is for the flows first, which need the server to end well
    settings = LASTING_LEASES | {"PREFECT_SERVER_UI_API_URL": address}  # its pages else ask at port 4200
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, start_new_session=True, env=settings | os.environ
    ) as process:
        try:
            wait_for_server(address, process)
            yield address
        finally:
            process.terminate()


def run_until_ended(command: Sequence[str], surroundings: Mapping[str, str]) -> int:
    """Run a command that ends when this process is told to end; returns its exit status."""
    with subprocess.Popen(command, env=dict(surroundings), start_new_session=True) as child:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: child.send_signal(signal.SIGINT))
        return child.wait()


def wait_for_server(address: str, process: subprocess.Popen[bytes] | None = None) -> None:
    """Until the server answers.

    Raises:
        HistopipeError: it ended, or didn't answer in time.
    """
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and (process is None or process.poll() is None):
        try:
            if requests.get(f"{address}/health", timeout=5).ok:
                return
        except requests.RequestException:
            pass
        time.sleep(0.5)
    raise HistopipeError(f"no Prefect server answers at {address}: start one, or set PREFECT_API_URL to one that runs")


@click.command()
@click.option("--port", default=4200, show_default=True, help="Of the server that is started where none is set.")
@click.option("--limit", default=2, show_default=True, help="Flow runs at one time.")
def main(port: int, limit: int) -> None:
    """Register every deployment of prefect.yaml, and run them by schedule and on demand."""
    with one_line_errors():
        root = Workspace.around().root
        os.chdir(root)
        if address := _configured_server():
            wait_for_server(address)
            _serve(limit)
            return
        with server_at(port) as address:
            click.echo(f"Prefect's UI: {address.removesuffix('/api')}")
            # in a process of its own: Prefect has read its settings by now
            command = [sys.executable, "-m", "flows.serve", "--limit", str(limit)]
            sys.exit(run_until_ended(command, os.environ | {"PREFECT_API_URL": address}))


def _configured_server() -> str | None:
    from prefect.settings import get_current_settings

    return get_current_settings().api.url


def _serve(limit: int) -> None:
    from prefect import serve

    from flows.watch import watch
    from tasks.parallel import set_gpu_limit

    # a script's shell has whatever it starts in the background ignore Ctrl-C, by which `run_until_ended` ends this
    signal.signal(signal.SIGINT, signal.default_int_handler)
    set_gpu_limit()
    watch()
    serve(*deployments(Path(FILE)), limit=limit)


if __name__ == "__main__":
    main()
