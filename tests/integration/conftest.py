"""A checkout of its own for every test, and real commands in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from benchmarks.checkouts import copy_project, environment
from tests.builders import compose, servers
from tests.builders.checkouts import SMALL, Checkout
from tests.builders.shared_servers import Shared
from tests.integration.loaded_code import NOTES, TRACER, notes_of


@pytest.fixture
def checkout(tmp_path: Path) -> Callable[..., Checkout]:
    """Make a checkout with changed parameters; call it again for another one."""
    made: list[Checkout] = []

    def make(**sections: Any) -> Checkout:
        root = tmp_path / f"checkout{len(made)}"
        copy_project(root)
        traced = {"PYTHONPATH": os.pathsep.join([str(root), str(TRACER)]), NOTES: str(notes_of(root))}
        made.append(Checkout(root, environment(root) | traced))
        made[-1].change(**{**SMALL, **sections})
        return made[-1]

    return make


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A Prefect server of its own; yields its API's address."""
    with servers.prefect(tmp_path, environment(tmp_path)) as address:
        yield address


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shared]:
    """compose.yaml's servers: MLflow and Prefect on PostgreSQL with users, artifacts and DVC's remote on S3."""
    folder = tmp_path / "servers"
    folder.mkdir()
    with ExitStack() as stack:
        database = stack.enter_context(servers.postgres(folder))
        store = stack.enter_context(servers.s3(folder))
        plain = environment(folder)
        mlflow = stack.enter_context(servers.mlflow(folder, plain, database, store))
        prefect = stack.enter_context(servers.shared_prefect(folder, plain, database))
        worker = compose.environment("worker", MLFLOW_TRACKING_URI=mlflow, PREFECT_API_URL=prefect, **store)
        for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
            monkeypatch.setenv(name, worker[name])
        own = ("HOME", "PYTHONPATH")  # each clone's
        yield Shared(mlflow, prefect, {name: value for name, value in worker.items() if name not in own})
