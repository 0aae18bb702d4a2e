"""Checkouts of the project to measure and test in: the tracked files, with their own parameters and environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import yaml

ROOT = Path(__file__).parents[1]
OWN = ".histopipe-benchmark"  # marks folders that benchmarks made
NO_FLOORS: dict[str, Any] = {  # for promotion after two epochs, judged on three test cases
    "min_cases": 1,
    "max_calibration_error": 1,
    **{f"min_{name}": 0 for name in ("roc_auc", "balanced_accuracy", "specificity", "sensitivity")},
}


def copy_project(target: Path) -> None:
    """Copy the files that git tracks or would track, and commit them; an earlier copy is updated.

    Its results stay.
    """
    for name in _tracked():
        if name != "dvc.lock" and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    commit_all(target)


def _tracked() -> list[str]:
    """List the project's files; outside git, as in an unpacked ZIP, by an empty repository elsewhere."""
    listing = ("ls-files", "-co", "--exclude-standard", "-z")
    with TemporaryDirectory() as scratch:
        command = ["git", "-C", str(ROOT), *listing]
        if subprocess.run(["git", "-C", str(ROOT), "rev-parse"], capture_output=True, check=False).returncode != 0:
            subprocess.run(["git", "init", "--quiet", "--bare", scratch], check=True)
            command = ["git", "-C", str(ROOT), f"--git-dir={scratch}", f"--work-tree={ROOT}", *listing]
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name]


def claim(folder: Path, emptied: bool = False) -> Path:
    """Mark a folder as a benchmark's own, or take one that is marked: other files are never overwritten or deleted.

    Args:
        folder: folder below `--folder`.
        emptied: whether its content is deleted.
    """
    mark = folder / OWN
    if folder.exists() and not mark.exists() and any(folder.iterdir()):
        raise click.ClickException(
            f"{folder} holds other files than a benchmark's: name another --folder, or move it away"
        )
    if emptied and mark.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    mark.touch()
    return folder


def commit_all(root: Path) -> None:
    """Make the folder a git repository, if it isn't one, and commit its content."""
    for arguments in (
        ("init", "--quiet"),
        ("add", "--all"),
        ("commit", "--quiet", "--allow-empty", "--message", "start"),
    ):
        subprocess.run(["git", *arguments], cwd=root, check=True, env=environment(root), stdout=sys.stderr)


def change_params(root: Path, **sections: Any) -> None:
    """Merge sections into the checkout's `params.yaml`."""
    path = root / "params.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    for name, value in sections.items():
        both_maps = isinstance(value, dict) and isinstance(content.get(name), dict)
        content[name] = content[name] | value if both_maps else value
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def environment(root: Path) -> dict[str, str]:
    """Return the environment of a user who has activated the virtual environment."""
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
