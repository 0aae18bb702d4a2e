"""Checks of MLflow, Prefect, git and DVC: they can be reached, and their versions fit."""

from __future__ import annotations

from importlib.metadata import version

from histopipe.core.addresses import public_url
from histopipe.core.dvc import error_line, is_rwlock_damaged, require_repository, run_dvc, rwlock_path
from histopipe.core.errors import HistopipeError, one_line
from histopipe.core.files import read_yaml
from histopipe.core.lineage import checkout_name, git_commit, git_problem
from histopipe.core.params import read_params
from histopipe.core.stages.running import running_stages
from histopipe.core.workspace import Workspace
from histopipe.operations.doctor.finding import Finding
from histopipe.operations.servers import prefect_server
from histopipe.tracking.problems import store_error
from histopipe.tracking.runs import find_runs
from histopipe.tracking.stores import (
    errors_in_one_line,
    experiment_name,
    is_database_missing,
    open_client,
    own_experiments,
    tracking_uri,
)

ANSWER_SECONDS = 60


def check_mlflow(workspace: Workspace) -> Finding:
    """Check that the tracking store can be reached and has the schema of this version of MLflow."""
    uri = tracking_uri(workspace)
    # a database's address may hold a password
    address = public_url(uri) if uri.startswith("http") else uri.partition(":")[0]
    if is_database_missing(workspace):
        return Finding("MLflow", "no run yet; the first one makes mlflow.db here")
    try:
        with errors_in_one_line(workspace):
            client = open_client(workspace)
            experiments = own_experiments(client)
            names = _model_names(workspace)
            registered = client.search_registered_models()
            models = [model for model in registered if model.name.startswith("histopipe-")]
            models += [model for model in registered if model.name in names]
    except store_error() as problem:
        observation = one_line(problem, 120)
        remedy = (
            "back it up, then `mlflow db upgrade` with its address"
            if "schema" in observation
            else "see the server's log"
        )
        return Finding("MLflow", f"{address}: {observation}", "error", remedy)
    except HistopipeError as problem:
        observation, _, remedy = str(problem).rpartition(": ")
        return Finding("MLflow", observation, "error", remedy)
    return Finding("MLflow", f"{address}: {len(experiments)} experiments, {len(models)} registered models")


def _model_names(workspace: Workspace) -> set[str]:
    """Return the names that `params.yaml` gives registered models, other than the usual names."""
    try:
        params = read_params(workspace.params)
    except HistopipeError:  # the finding on parameters has the message
        return set()
    names = {params.tracking.model_of(dataset) for dataset in params.datasets}
    return {name for name in names if not name.startswith(experiment_name(""))}


def check_runs(workspace: Workspace) -> Finding:
    """Check for runs of this checkout that MLflow shows as running though no stage runs."""
    if is_database_missing(workspace):
        return Finding("runs", "none yet")
    try:
        with errors_in_one_line(workspace):
            client = open_client(workspace)
            experiments = [experiment.experiment_id for experiment in own_experiments(client)]
            own = {"checkout": checkout_name(workspace)}
            running = "attributes.status = 'RUNNING'"
            runs = find_runs(experiments, own, running) if experiments else []
    except Exception as problem:  # the finding on MLflow has the full message
        return Finding("runs", f"can't be checked ({type(problem).__name__})", "warning", "see MLflow above")
    if not runs:
        return Finding("runs", "none is left over from a killed training")
    if running_stages(workspace):
        return Finding("runs", f"{len(runs)} in progress")
    names = [
        f"{run.data.tags.get('dataset')} {run.data.tags.get('architecture')} ({run.info.run_id[:8]})" for run in runs
    ]
    observation = f"marked as running, but nothing trains: {', '.join(names[:5])}"
    return Finding("runs", observation, "warning", "`dvc repro` resumes them, or closes those that it no longer needs")


def check_git(workspace: Workspace) -> Finding:
    """Check that runs can be recorded with the commit of their code."""
    problem = git_problem(workspace.root)
    if problem is None:
        return Finding("git", f"commit {(git_commit(workspace.root) or '')[:12]}")
    reason, remedy = problem
    return Finding("git", f"runs are recorded without their commit: {reason}", "warning", remedy)


def check_prefect(workspace: Workspace) -> Finding:
    """Check that the server that flows report to can be reached, and has the installed release."""
    import requests

    server, ours = prefect_server(workspace.checkout), version("prefect")
    if server is None:
        return Finding(
            "Prefect", f"{ours}; no PREFECT_API_URL: flows start their own server, but schedules need a permanent one"
        )
    try:
        theirs = str(server.ask("admin/version"))
    except (requests.RequestException, ValueError) as problem:
        status = getattr(getattr(problem, "response", None), "status_code", None)
        observation = (
            f"{server.public_address} answers {status}" if status else f"no server answers at {server.public_address}"
        )
        correct = f"correct PREFECT_API_URL (set in {server.origin})"
        remedy = "set PREFECT_API_AUTH_STRING" if status in (401, 403) else f"start it, or {correct}"
        return Finding("Prefect", observation, "error", remedy)
    if theirs.split(".")[:2] != ours.split(".")[:2]:
        return Finding(
            "Prefect",
            f"{server.public_address}: server {theirs}, here {ours}",
            "warning",
            "install the same release on both",
        )
    return Finding("Prefect", f"{server.public_address}: {theirs}")


def check_dvc(workspace: Workspace) -> Finding:
    """Check that the checkout is a DVC repository, its record can be read, and its remote can be reached."""
    if not (workspace.root / ".dvc").is_dir():
        return Finding(
            "DVC", f"{workspace.root} is no DVC repository", "error", "clone histopipe again, or run `dvc init`"
        )
    try:
        require_repository(workspace)
    except HistopipeError as problem:
        observation, _, remedy = str(problem).partition(": ")
        return Finding("DVC", observation, "error", remedy)
    try:
        stages = len((read_yaml(workspace.dvc_lock) if workspace.dvc_lock.exists() else {}).get("stages") or {})
    except Exception:  # YAML raises errors of many kinds
        return Finding("DVC", f"{workspace.dvc_lock.name} can't be read", "error", "`git checkout dvc.lock`")
    if is_rwlock_damaged(rwlock_path(workspace)):
        path = rwlock_path(workspace)
        observation = f"{path} was left incomplete by a killed process, and DVC runs no stage until it is removed"
        return Finding("DVC", observation, "error", "`histopipe doctor --mend`")
    return _check_remote(workspace, stages)


def _check_remote(workspace: Workspace, stages: int) -> Finding:
    """Check that DVC's remote can be reached, if there is one."""
    listed = run_dvc(workspace, "config", "core.remote", timeout=ANSWER_SECONDS)
    remote = listed.stdout.strip()
    if listed.returncode != 0 or not remote:
        return Finding("DVC", f"{stages} stages recorded; no remote, results stay on this machine")
    answer = run_dvc(workspace, "list-url", f"remote://{remote}", timeout=ANSWER_SECONDS)
    if answer.returncode != 0 and "not exist" not in answer.stderr:  # an empty remote has no folder yet
        return Finding(
            "DVC",
            f"remote {remote}: {error_line(answer)}",
            "error",
            "check that it is running and that the credentials are set",
        )
    return Finding("DVC", f"{stages} stages recorded; remote {remote} can be reached")
