"""Networks that are evaluated once, a registry of its own for every test, and kills between any two writes to it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from histopipe.core.workspace import Workspace
from tests.builders.promotions import WRITES, Killed, make_evaluated


@pytest.fixture(scope="package")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Three evaluated networks, made once for all tests of this folder."""
    return make_evaluated(tmp_path_factory.mktemp("evaluated"))


@pytest.fixture
def workspace(evaluated: Workspace, tmp_path: Path) -> Workspace:
    """A copy for each test, with a registry of its own; the runs' artifacts stay where they are."""
    root = tmp_path / "checkout"
    shutil.copytree(evaluated.root, root, ignore=shutil.ignore_patterns("mlartifacts"))
    return Workspace(root)


@pytest.fixture
def killer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int | None], list[str]]]:
    """Ends the work before its Nth write to the registry; returns what was written."""
    written: list[str] = []
    limit: list[int | None] = [None]

    def watched(name: str) -> Callable[..., Any]:
        original = getattr(MlflowClient, name)

        def call(*arguments: Any, **options: Any) -> Any:
            if limit[0] is not None and len(written) >= limit[0]:
                raise Killed
            written.append(name)
            return original(*arguments, **options)

        return call

    for name in WRITES:
        monkeypatch.setattr(MlflowClient, name, watched(name))

    def arm(number: int | None) -> list[str]:
        written.clear()
        limit[0] = number
        return written

    yield arm
