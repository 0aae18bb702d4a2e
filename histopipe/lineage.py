"""Which code and data made a result: the git commit, DVC's hashes from `dvc.lock`, versions of what was used."""

from __future__ import annotations

import importlib
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import yaml

from histopipe import __version__
from histopipe.files import read_yaml
from histopipe.paths import Workspace, stage_name

FLOW_RUN_VARIABLE = "HISTOPIPE_FLOW_RUN_ID"  # set by tasks for the stages they start
FLOW_RUN_TAG = "prefect_flow_run"


def lineage_tags(workspace: Workspace, dataset: str) -> dict[str, str]:
    """Tags that lead from a run back to its code, data, split and flow; what isn't known is left out."""
    tags = {
        "git_commit": git_commit(workspace.root),
        "git_dirty": git_dirty(workspace.root),
        "dvc_raw": output_hash(workspace, stage_name("fetch", dataset), f"data/raw/{dataset}"),
        "dvc_store": output_hash(workspace, stage_name("ingest", dataset), f"data/store/{dataset}"),
        "dvc_split": output_hash(workspace, stage_name("split", dataset), _split(workspace, dataset)),
    }
    return {name: value for name, value in tags.items() if value} | flow_run_tag()


def flow_run_tag() -> dict[str, str]:
    """The Prefect flow run that this process works for; nothing where it works for none."""
    identifier = os.environ.get(FLOW_RUN_VARIABLE)
    return {FLOW_RUN_TAG: identifier} if identifier else {}


def _split(workspace: Workspace, dataset: str) -> str:
    """The split's path as `dvc.lock` has it; a variant's own split is no output of the split stage."""
    return workspace.split(dataset).relative_to(workspace.root).as_posix()


def git_commit(root: Path) -> str | None:
    """The checked-out commit, or None outside a git repository."""
    return _git(root, "rev-parse", "HEAD")


def git_dirty(root: Path) -> str | None:
    """`true` if tracked files differ from the commit, else `false`; None outside a git repository."""
    changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    return None if changes is None else str(bool(changes)).lower()


def _git(root: Path, *arguments: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def versions() -> dict[str, str]:
    """Of Python, histopipe, Keras, its backend and NumPy, as they are in use; loads them."""
    import keras

    used = {name: importlib.import_module(name).__version__ for name in ("keras", keras.backend.backend(), "numpy")}
    return {"python": platform.python_version(), "histopipe": __version__, **used}


def locked_stage(workspace: Workspace, stage: str) -> dict[str, Any] | None:
    """What `dvc.lock` records of a stage; None if it doesn't."""
    try:
        lock: Any = read_yaml(workspace.dvc_lock)
        return dict(lock["stages"][stage])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError):
        return None


def output_hash(workspace: Workspace, stage: str, path: str) -> str | None:
    """The hash under which `dvc.lock` records an output of a stage; None if it doesn't."""
    outputs = (locked_stage(workspace, stage) or {}).get("outs") or []
    return next((out.get("md5") for out in outputs if out.get("path") == path), None)
