"""The code and data behind a result: git commit, DVC's hashes from `dvc.lock`, versions of libraries."""

from __future__ import annotations

import importlib
import logging
import os
import platform
import re
import socket
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from histopipe import __version__
from histopipe.core.errors import one_line
from histopipe.core.files import read_yaml
from histopipe.core.workspace import PARAMS_FILE, Workspace, stage_name

FLOW_RUN_VARIABLE = "HISTOPIPE_FLOW_RUN_ID"  # set by tasks for the stages they start
FLOW_RUN_TAG = "prefect_flow_run"

_log = logging.getLogger(__name__)

# git's own remedy where the checkout belongs to another user, as it writes it
_EXCEPTION = re.compile(r"git config --global --add safe\.directory .+")
_CLONE = "clone histopipe with git instead"


def lineage_tags(workspace: Workspace, dataset: str) -> dict[str, str]:
    """Return tags that lead from a run back to its code, data, split and flow; unknown ones are left out."""
    tags = {
        "git_commit": git_commit(workspace.root),
        "git_dirty": git_dirty(workspace.root),
        "dvc_raw": output_hash(workspace, stage_name("fetch", dataset), f"data/raw/{dataset}"),
        "dvc_store": output_hash(workspace, stage_name("ingest", dataset), f"data/store/{dataset}"),
        "dvc_split": output_hash(workspace, stage_name("split", dataset), _split(workspace, dataset)),
    }
    return {name: value for name, value in tags.items() if value} | flow_run_tag()


def checkout_name(workspace: Workspace) -> str:
    """Return the machine and folder in which a run or a trial is made: several may share a server.

    An experiment has its own folder in the name: two that train in parallel must not resume, or close, each other's
    runs.
    """
    return f"{socket.gethostname()}:{workspace.root}"


def is_own_checkout(name: str, workspace: Workspace) -> bool:
    """Return whether a run or a trial was made in this checkout, or in a folder of its DVC experiments.

    Args:
        name: the name that `checkout_name` returned there.
        workspace: the checkout, or one of those folders.
    """
    own = checkout_name(Workspace(workspace.checkout))
    return name == own or name.startswith(f"{own}/.dvc/tmp/exps/")


def flow_run_tag() -> dict[str, str]:
    """Return a tag with the Prefect flow run that this process works for; empty where there is none."""
    identifier = os.environ.get(FLOW_RUN_VARIABLE)
    return {FLOW_RUN_TAG: identifier} if identifier else {}


def _split(workspace: Workspace, dataset: str) -> str:
    """Return the split's path as `dvc.lock` has it; a variant's own split is no output of the split stage."""
    return workspace.split(dataset).relative_to(workspace.root).as_posix()


def git_commit(root: Path) -> str | None:
    """Return the checked-out commit; None where git can't tell, with one warning per process."""
    problem = git_problem(root)
    if problem is None:
        return _git(root, "rev-parse", "HEAD").stdout.strip()
    _warn_once(root, *problem)
    return None


def git_dirty(root: Path) -> str | None:
    """Return `true` if tracked files differ from the commit, else `false`; None where git can't tell."""
    if git_problem(root) is not None:
        return None
    answer = _git(root, "status", "--porcelain", "--untracked-files=no")
    return str(bool(answer.stdout.strip())).lower() if answer.returncode == 0 else None


def git_problem(root: Path) -> tuple[str, str] | None:
    """Return why git can't tell the commit of a checkout, and the remedy; None where it can.

    A checkout that is merely inside the folder of another repository has no commit: that repository's doesn't describe
    it.
    """
    try:
        head = _git(root, "rev-parse", "--verify", "HEAD")
        if head.returncode == 0 and _git(root, "ls-files", "--error-unmatch", PARAMS_FILE).returncode == 0:
            return None
    except FileNotFoundError:
        return "git isn't installed", "install git"
    except (OSError, subprocess.SubprocessError) as problem:
        return f"git doesn't answer ({type(problem).__name__})", "run `git status` there to see why"
    return _refusal(head.stderr)


def _refusal(message: str) -> tuple[str, str]:
    """Return the reason behind git's error message, and the remedy; no message means another repository's folder."""
    if remedy := _EXCEPTION.search(message):
        return "it belongs to another user, so git refuses to read it", f"`{remedy[0].strip()}`"
    if not message:
        return f"the git repository around it doesn't hold its {PARAMS_FILE}", _CLONE
    if "not a git repository" in message:
        return "it is no git repository", _CLONE
    if "Needed a single revision" in message:
        return "it has no commit yet", "commit it"
    return f"git reports: {one_line(message, 160)}", "run `git status` there to see why"


@cache
def _warn_once(root: Path, reason: str, remedy: str) -> None:
    _log.warning("runs are recorded without the git commit of %s: %s; %s", root, reason, remedy)


def _git(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run git with English output, whatever the language of this process."""
    environment = os.environ | {"LC_ALL": "C"}
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30, env=environment)


def versions() -> dict[str, str]:
    """Return the versions of Python, histopipe, Keras, its backend and NumPy that are in use; loads them."""
    import keras

    used = {name: importlib.import_module(name).__version__ for name in ("keras", keras.backend.backend(), "numpy")}
    return {"python": platform.python_version(), "histopipe": __version__, **used}


def locked_stages(workspace: Workspace) -> dict[str, Any]:
    """Read the entries of all stages in `dvc.lock`, by name; empty if it can't be read."""
    try:
        lock: Any = read_yaml(workspace.dvc_lock)
        return dict(lock["stages"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError):
        return {}


def locked_stage(workspace: Workspace, stage: str) -> dict[str, Any] | None:
    """Return the entry of a stage in `dvc.lock`; None if there is none."""
    try:
        return dict(locked_stages(workspace)[stage])
    except (KeyError, TypeError, ValueError):
        return None


def output_hash(workspace: Workspace, stage: str, path: str) -> str | None:
    """Return the hash of a stage's output in `dvc.lock`; None if there is none."""
    outputs = (locked_stage(workspace, stage) or {}).get("outs") or []
    return next((out.get("md5") for out in outputs if out.get("path") == path), None)
