"""A checkout of its own for every test, and real commands in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

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
        path = self.root / "params.yaml"
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        for name, value in sections.items():
            both_maps = isinstance(value, dict) and isinstance(content.get(name), dict)
            content[name] = content[name] | value if both_maps else value
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")

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
        made.append(Checkout(root, environment(root)))
        made[-1].change(**{**SMALL, **sections})
        return made[-1]

    return make


def copy_project(target: Path) -> None:
    """Copy what git tracks or would track, and commit it."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if name != "dvc.lock" and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    for arguments in (("init", "--quiet"), ("add", "--all"), ("commit", "--quiet", "--message", "start")):
        subprocess.run(["git", *arguments], cwd=target, check=True, env=environment(target))


def environment(root: Path) -> dict[str, str]:
    """The surroundings of a user who has activated the virtual environment."""
    own = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(root),
        "PREFECT_HOME": str(root / ".prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # a busy machine is slow, not broken
        **{f"GIT_{role}_{part}": "test" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")},
    }
    hidden = ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "DVC_STAGE", "DVC_ROOT", "DVC_EXP_NAME", "HISTOPIPE_PARENT")
    return {name: value for name, value in os.environ.items() if name not in hidden} | own
