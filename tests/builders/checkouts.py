"""Checkouts of their own, and real commands in them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.checkouts import change_params

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
        """Merge sections into params.yaml."""
        change_params(self.root, **sections)

    def start(self, *command: str, **options: Any) -> subprocess.Popen[str]:
        """Start a command whose output goes to one pipe."""
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
        """Run DVC to its end."""
        return self.run(sys.executable, "-m", "dvc", *arguments, check=check)

    def histopipe(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run histopipe to its end."""
        return self.run(sys.executable, "-m", "histopipe", *arguments, check=check)


def not_activated(project: Checkout) -> Checkout:
    """Return the checkout as a shell sees it in which its `.venv` isn't activated."""
    (project.root / ".venv").mkdir()
    (project.root / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    places = project.environment["PATH"].split(os.pathsep)
    bare = os.pathsep.join(place for place in places if not (Path(place) / "histopipe").exists())
    kept = {name: value for name, value in project.environment.items() if name != "PYTHONPATH"}
    return replace(project, environment=kept | {"PATH": bare})


def stages_run(output: str) -> list[str]:
    """List the stages that `dvc repro` says it ran."""
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]
