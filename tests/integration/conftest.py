"""A checkout of its own for every test, and real commands in it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from benchmarks.checkouts import change_params, copy_project, environment
from tests.builders import servers
from tests.integration.loaded_code import NOTES, TRACER, notes_of

SMALL = {
    "architectures": ["cancernet"],
    "synthetic": {"cases": 20, "patches": 900, "nested_copy": True},
    "quick": {"max_epochs": 2, "max_patches": 320, "max_image_size": 24},
}


@dataclass(frozen=True)
class Checkout:
    """A fresh copy of the project, with commands that run as a user's would."""

    root: Path
    environment: Mapping[str, str]

    def change(self, **sections: Any) -> None:
        """Merge into params.yaml."""
        change_params(self.root, **sections)

    def start(self, *command: str, **options: Any) -> subprocess.Popen[str]:
        """Start a command; its output goes to one pipe."""
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **options,
        )

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        done = subprocess.run(command, cwd=self.root, env=self.environment, capture_output=True, text=True, check=False)
        if check and done.returncode != 0:
            pytest.fail(
                f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
            )
        return done

    def dvc(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "dvc", *arguments, check=check)

    def histopipe(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "histopipe", *arguments, check=check)


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


def ask(address: str, what: str, credentials: tuple[str, str] | None = None) -> list[dict[str, Any]]:
    answer = requests.post(f"{address}/{what}/filter", json={"limit": 200}, timeout=30, auth=credentials)
    answer.raise_for_status()
    found: list[dict[str, Any]] = answer.json()
    return found
