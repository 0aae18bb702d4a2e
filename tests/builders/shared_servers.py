"""Servers that several machines share, clones on these machines, and Dask workers in the clones."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.checkouts import commit_all, environment
from tests.builders import servers
from tests.builders.checkouts import Checkout
from tests.builders.servers import ask


@dataclass(frozen=True)
class Shared:
    """Servers that several machines share.

    Attributes:
        surroundings: the variables that lead there, credentials among them.
    """

    mlflow: str
    prefect: str
    surroundings: Mapping[str, str]

    def ask(self, what: str) -> list[dict[str, Any]]:
        """Return what Prefect's server has of a kind."""
        return ask(self.prefect, what, self.credentials)

    @property
    def credentials(self) -> tuple[str, str]:
        """Return user and password at Prefect's server."""
        user, _, password = self.surroundings["PREFECT_API_AUTH_STRING"].partition(":")
        return user, password


def with_remote(project: Checkout, shared: Shared) -> Checkout:
    """Return the checkout with DVC's remote on S3 and the servers' addresses, committed so that it can be cloned."""
    joined = Checkout(project.root, {**project.environment, **shared.surroundings})
    joined.dvc("remote", "add", "--default", "shared", "s3://dvc/histopipe")
    commit_all(project.root)
    return joined


def cloned(project: Checkout, root: Path) -> Checkout:
    """Clone a checkout, with an environment of its own."""
    subprocess.run(["git", "clone", "--quiet", str(project.root), str(root)], check=True)
    own = {name: environment(root)[name] for name in ("PYTHONPATH", "PREFECT_HOME")}
    return Checkout(root, {**project.environment, **own})


@contextmanager
def workers(folder: Path, clones: list[Checkout], resources: tuple[str, ...] = ()) -> Iterator[str]:
    """Run a Dask scheduler and a worker in each clone; yield the scheduler's address."""
    port = servers.free_port()
    address = f"tcp://127.0.0.1:{port}"
    start = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port)]
    with ExitStack() as stack:
        log = folder / "scheduler.log"
        stack.enter_context(servers.running([*start, "--no-dashboard"], log, clones[0].environment, folder))
        for number, clone in enumerate(clones):
            command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny"]
            command += ["--no-dashboard", "--name", clone.root.name, *resources]
            log = folder / f"worker{number}.log"
            stack.enter_context(servers.running(command, log, clone.environment, clone.root))
        wait_for_workers(address, len(clones))
        yield address


def wait_for_workers(address: str, count: int) -> None:
    """Wait until so many workers have joined."""
    from distributed import Client

    deadline = time.monotonic() + servers.PATIENCE
    while time.monotonic() < deadline:
        try:
            with Client(address, timeout=5) as client:
                client.wait_for_workers(count, timeout=60)
                return
        except OSError:
            time.sleep(0.5)
    pytest.fail("the workers didn't come")


def iterate_runs(shared: Shared, dataset: str = "malaria") -> list[Any]:
    """List a data set's runs."""
    import mlflow as tracking

    tracking.set_tracking_uri(shared.mlflow)
    return list(tracking.search_runs(experiment_names=[f"histopipe-{dataset}"], output_format="list"))


def champion(shared: Shared, dataset: str = "malaria") -> str:
    """Return the champion's version."""
    from mlflow import MlflowClient

    return str(MlflowClient(shared.mlflow).get_model_version_by_alias(f"histopipe-{dataset}", "champion").version)
