"""MLflow, Prefect and DVC: whether they can be reached, and whether they fit."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from histopipe import tracking
from histopipe.addresses import public_url
from histopipe.doctor.finding import Finding
from histopipe.errors import HistopipeError
from histopipe.files import read_yaml
from histopipe.paths import Workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

ANSWER_SECONDS = 60


def mlflow(workspace: Workspace) -> Finding:
    """Whether the tracking store answers and has this MLflow's schema."""
    from mlflow.exceptions import MlflowException

    uri = tracking.tracking_uri(workspace)
    # a database's address may hold a password
    place = public_url(uri) if uri.startswith("http") else uri.partition(":")[0]
    if _before_the_first_run(workspace):
        return Finding("MLflow", "no run yet; the first one makes mlflow.db here")
    try:
        with tracking.told_in_one_line(workspace):
            client = tracking.registry(workspace)
            known = _experiments(client)
            models = [one for one in client.search_registered_models() if one.name.startswith("histopipe-")]
    except MlflowException as problem:
        said = " ".join(str(problem).split())[:120]
        remedy = "back it up, then `mlflow db upgrade` with its address" if "schema" in said else "see the server's log"
        return Finding("MLflow", f"{place}: {said}", "error", remedy)
    except HistopipeError as problem:
        said, _, remedy = str(problem).rpartition(": ")
        return Finding("MLflow", said, "error", remedy)
    return Finding("MLflow", f"{place}: {len(known)} experiments, {len(models)} registered models")


def _before_the_first_run(workspace: Workspace) -> bool:
    """Whether the embedded database is still to be made; asking for it would make it."""
    database = workspace.home / "mlflow.db"
    return tracking.tracking_uri(workspace) == f"sqlite:///{database}" and not database.exists()


def _experiments(client: MlflowClient) -> list[Experiment]:
    return [one for one in client.search_experiments() if one.name.startswith(tracking.experiment_name(""))]


def orphaned_runs(workspace: Workspace) -> Finding:
    """Runs of this checkout that MLflow takes for running though no stage does."""
    if _before_the_first_run(workspace):
        return Finding("runs", "none yet")
    try:
        with tracking.told_in_one_line(workspace):
            client = tracking.registry(workspace)
            experiments = [one.experiment_id for one in _experiments(client)]
            condition = f"tags.checkout = '{tracking.checkout(workspace)}' and attributes.status = 'RUNNING'"
            found = client.search_runs(experiments, condition) if experiments else []
    except Exception as problem:  # the line on MLflow says it in full
        return Finding("runs", f"can't be looked at ({type(problem).__name__})", "warning", "see MLflow above")
    if not found:
        return Finding("runs", "none is left over from a killed training")
    if _stage_runs(workspace):
        return Finding("runs", f"{len(found)} going on")
    names = [
        f"{run.data.tags.get('dataset')} {run.data.tags.get('architecture')} ({run.info.run_id[:8]})" for run in found
    ]
    said = f"marked as running, but nothing trains: {', '.join(names[:5])}"
    return Finding("runs", said, "warning", "`dvc repro` goes on with them, or closes those it no longer needs")


def _stage_runs(workspace: Workspace) -> bool:
    """Whether some stage of this checkout runs, which may be writing to a run."""
    return any(_is_held(lock) for lock in workspace.lock("any").parent.glob("*@*.lock"))


def _is_held(path: Path) -> bool:
    if not path.exists():
        return False
    lock = FileLock(path)
    try:
        with lock.acquire(timeout=0):
            return False
    except Timeout:
        return True


def prefect() -> Finding:
    """Whether the server of PREFECT_API_URL answers, and is of the installed release."""
    import requests

    address = os.environ.get("PREFECT_API_URL")
    ours = version("prefect")
    if not address:
        return Finding("Prefect", f"{ours}; no PREFECT_API_URL: flows start a server of their own, schedules need one")
    place = public_url(address)
    try:
        answer = requests.get(f"{address.rstrip('/')}/admin/version", timeout=10, auth=_credentials())
        answer.raise_for_status()
        theirs = str(answer.json())
    except (requests.RequestException, ValueError) as problem:
        refused = getattr(getattr(problem, "response", None), "status_code", None)
        said = f"{place} answers {refused}" if refused else f"no server answers at {place}"
        remedy = "set PREFECT_API_AUTH_STRING" if refused in (401, 403) else "start it, or set PREFECT_API_URL right"
        return Finding("Prefect", said, "error", remedy)
    if theirs.split(".")[:2] != ours.split(".")[:2]:
        return Finding(
            "Prefect", f"{place}: server {theirs}, here {ours}", "warning", "install the same release on both"
        )
    return Finding("Prefect", f"{place}: {theirs}")


def _credentials() -> tuple[str, str] | None:
    user, _, password = os.environ.get("PREFECT_API_AUTH_STRING", "").partition(":")
    return (user, password) if user else None


def dvc(workspace: Workspace) -> Finding:
    """Whether DVC knows the checkout, its record can be read, and its remote answers."""
    if not (workspace.root / ".dvc").is_dir():
        return Finding("DVC", f"{workspace.root} is no DVC repository", "error", "clone histopipe anew, or `dvc init`")
    try:
        stages = len((read_yaml(workspace.dvc_lock) if workspace.dvc_lock.exists() else {}).get("stages") or {})
    except Exception:  # whatever YAML makes of it
        return Finding("DVC", f"{workspace.dvc_lock.name} can't be read", "error", "`git checkout dvc.lock`")
    listed = _dvc(workspace, "config", "core.remote")
    remote = listed.stdout.strip()
    if listed.returncode != 0 or not remote:
        return Finding("DVC", f"{stages} stages on record; no remote, results stay on this machine")
    answer = _dvc(workspace, "list-url", f"remote://{remote}")
    if answer.returncode != 0 and "not exist" not in answer.stderr:  # an empty remote has no folder yet
        said = (answer.stderr.strip().splitlines() or ["no answer"])[-1].removeprefix("ERROR: ")[:120]
        return Finding("DVC", f"remote {remote}: {said}", "error", "see that it is up, and the credentials are set")
    return Finding("DVC", f"{stages} stages on record; remote {remote} answers")


def _dvc(workspace: Workspace, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dvc", *arguments]
    try:
        return subprocess.run(
            command, cwd=workspace.root, capture_output=True, text=True, check=False, timeout=ANSWER_SECONDS
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"no answer within {ANSWER_SECONDS} s")
