"""Register, schedule and run all deployments of prefect.yaml in one process.

    python -m flows.serve

It uses the server of PREFECT_API_URL; where none is set, it starts one and ends it when it ends itself.
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

PATIENCE = 120.0  # seconds for a server to start, or to respond
FILE = "prefect.yaml"
# a flow's share of a limit is released even if the server was restarted meanwhile
LASTING_LEASES = {
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
}


def deployments(path: Path) -> list[RunnerDeployment]:
    """List the deployments that `prefect deploy --all` would register, without a work pool."""
    return [_deployment(content) for content in read_yaml(path)["deployments"]]


def _deployment(content: dict[str, Any]) -> RunnerDeployment:
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.objects import ConcurrencyLimitConfig
    from prefect.deployments.runner import RunnerDeployment

    schedules = [
        DeploymentScheduleCreate.model_validate({"schedule": schedule}) for schedule in content.get("schedules", [])
    ]
    return RunnerDeployment.from_entrypoint(
        content["entrypoint"],
        content["name"],
        schedules=schedules or None,
        parameters=content.get("parameters"),
        description=content.get("description"),
        tags=content.get("tags"),
        concurrency_limit=ConcurrencyLimitConfig.model_validate(content["concurrency_limit"]),
    )


@contextmanager
def server_at(port: int) -> Iterator[str]:
    """Run a Prefect server inside the block; yield its API's address.

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
    # in its own session: Ctrl-C goes to the flows first, which need the server to end properly
    settings = LASTING_LEASES | {"PREFECT_SERVER_UI_API_URL": address}  # otherwise its pages use port 4200
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, start_new_session=True, env=settings | os.environ
    ) as process:
        try:
            wait_for_server(address, process)
            yield address
        finally:
            process.terminate()


def run_until_ended(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a command that ends when this process receives a signal to end; return its exit status."""
    with subprocess.Popen(command, env=dict(environment), start_new_session=True) as child:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: child.send_signal(signal.SIGINT))
        return child.wait()


def wait_for_server(address: str, process: subprocess.Popen[bytes] | None = None) -> None:
    """Wait until the server responds.

    Raises:
        HistopipeError: the server ended, or didn't respond in time.
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
@click.option("--port", default=4200, show_default=True, help="Port of the server that is started where none is set.")
@click.option("--limit", default=2, show_default=True, help="Number of flow runs at one time.")
def main(port: int, limit: int) -> None:
    """Register every deployment of prefect.yaml, and run them by schedule and on demand."""
    with one_line_errors():
        root = Workspace.find().root
        os.chdir(root)
        if address := _configured_server():
            wait_for_server(address)
            _serve(limit)
            return
        with server_at(port) as address:
            click.echo(f"Prefect's UI: {address.removesuffix('/api')}")
            # in another process, since Prefect has read its settings by now
            command = [sys.executable, "-m", "flows.serve", "--limit", str(limit)]
            sys.exit(run_until_ended(command, os.environ | {"PREFECT_API_URL": address}))


def _configured_server() -> str | None:
    from prefect.settings import get_current_settings

    return get_current_settings().api.url


def _serve(limit: int) -> None:
    from prefect import serve

    from flows.watch import watch
    from tasks.parallel import set_gpu_limit

    # a script's shell makes background processes ignore Ctrl-C, but `run_until_ended` ends this process by it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    set_gpu_limit()
    watch()
    serve(*deployments(Path(FILE)), limit=limit)


if __name__ == "__main__":
    main()
