"""MLflow, Prefect, git and DVC: whether they can be reached, and whether they fit."""

from __future__ import annotations

from importlib.metadata import version

from histopipe.core.addresses import public_url
from histopipe.core.dvc import error_line, is_cut_off, lock_list, require_repository, run_dvc
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


def mlflow(workspace: Workspace) -> Finding:
    """Whether the tracking store answers and has this MLflow's schema."""
    uri = tracking_uri(workspace)
    # a database's address may hold a password
    place = public_url(uri) if uri.startswith("http") else uri.partition(":")[0]
    if is_database_missing(workspace):
        return Finding("MLflow", "no run yet; the first one makes mlflow.db here")
    try:
        with errors_in_one_line(workspace):
            client = open_client(workspace)
            known = own_experiments(client)
            names = _model_names(workspace)
            models = [one for one in client.search_registered_models() if one.name.startswith("histopipe-")]
            models += [one for one in client.search_registered_models() if one.name in names]
    except store_error() as problem:
        said = one_line(problem, 120)
        remedy = "back it up, then `mlflow db upgrade` with its address" if "schema" in said else "see the server's log"
        return Finding("MLflow", f"{place}: {said}", "error", remedy)
    except HistopipeError as problem:
        said, _, remedy = str(problem).rpartition(": ")
        return Finding("MLflow", said, "error", remedy)
    return Finding("MLflow", f"{place}: {len(known)} experiments, {len(models)} registered models")


def _model_names(workspace: Workspace) -> set[str]:
    """What `params.yaml` calls registered models, beyond the usual names."""
    try:
        params = read_params(workspace.params)
    except HistopipeError:  # the line on parameters says it
        return set()
    names = {params.tracking.model_of(dataset) for dataset in params.datasets}
    return {name for name in names if not name.startswith(experiment_name(""))}


def orphaned_runs(workspace: Workspace) -> Finding:
    """Runs of this checkout that MLflow takes for running though no stage does."""
    if is_database_missing(workspace):
        return Finding("runs", "none yet")
    try:
        with errors_in_one_line(workspace):
            client = open_client(workspace)
            experiments = [one.experiment_id for one in own_experiments(client)]
            own = {"checkout": checkout_name(workspace)}
            running = "attributes.status = 'RUNNING'"
            found = find_runs(experiments, own, running) if experiments else []
    except Exception as problem:  # the line on MLflow says it in full
        return Finding("runs", f"can't be looked at ({type(problem).__name__})", "warning", "see MLflow above")
    if not found:
        return Finding("runs", "none is left over from a killed training")
    if running_stages(workspace):
        return Finding("runs", f"{len(found)} going on")
    names = [
        f"{run.data.tags.get('dataset')} {run.data.tags.get('architecture')} ({run.info.run_id[:8]})" for run in found
    ]
    said = f"marked as running, but nothing trains: {', '.join(names[:5])}"
    return Finding("runs", said, "warning", "`dvc repro` goes on with them, or closes those it no longer needs")


def git(workspace: Workspace) -> Finding:
    """Whether runs can be recorded with the commit that they are made from."""
    problem = git_problem(workspace.root)
    if problem is None:
        return Finding("git", f"commit {(git_commit(workspace.root) or '')[:12]}")
    reason, remedy = problem
    return Finding("git", f"runs are recorded without their commit: {reason}", "warning", remedy)


def prefect(workspace: Workspace) -> Finding:
    """Whether the server that flows report to answers, and is of the installed release."""
    import requests

    server, ours = prefect_server(workspace.home), version("prefect")
    if server is None:
        return Finding("Prefect", f"{ours}; no PREFECT_API_URL: flows start a server of their own, schedules need one")
    try:
        theirs = str(server.ask("admin/version"))
    except (requests.RequestException, ValueError) as problem:
        refused = getattr(getattr(problem, "response", None), "status_code", None)
        said = f"{server.place} answers {refused}" if refused else f"no server answers at {server.place}"
        right = f"set PREFECT_API_URL right ({server.origin} sets it)"
        remedy = "set PREFECT_API_AUTH_STRING" if refused in (401, 403) else f"start it, or {right}"
        return Finding("Prefect", said, "error", remedy)
    if theirs.split(".")[:2] != ours.split(".")[:2]:
        return Finding(
            "Prefect", f"{server.place}: server {theirs}, here {ours}", "warning", "install the same release on both"
        )
    return Finding("Prefect", f"{server.place}: {theirs}")


def dvc(workspace: Workspace) -> Finding:
    """Whether DVC knows the checkout, its record can be read, and its remote answers."""
    if not (workspace.root / ".dvc").is_dir():
        return Finding("DVC", f"{workspace.root} is no DVC repository", "error", "clone histopipe anew, or `dvc init`")
    try:
        require_repository(workspace)
    except HistopipeError as problem:
        said, _, remedy = str(problem).partition(": ")
        return Finding("DVC", said, "error", remedy)
    try:
        stages = len((read_yaml(workspace.dvc_lock) if workspace.dvc_lock.exists() else {}).get("stages") or {})
    except Exception:  # whatever YAML makes of it
        return Finding("DVC", f"{workspace.dvc_lock.name} can't be read", "error", "`git checkout dvc.lock`")
    if is_cut_off(lock_list(workspace)):
        said = f"{lock_list(workspace)} was cut off by a kill, and DVC runs no stage until it is gone"
        return Finding("DVC", said, "error", "`histopipe doctor --mend`")
    return _remote(workspace, stages)


def _remote(workspace: Workspace, stages: int) -> Finding:
    """Whether DVC's remote answers, where there is one."""
    listed = run_dvc(workspace, "config", "core.remote", seconds=ANSWER_SECONDS)
    remote = listed.stdout.strip()
    if listed.returncode != 0 or not remote:
        return Finding("DVC", f"{stages} stages on record; no remote, results stay on this machine")
    answer = run_dvc(workspace, "list-url", f"remote://{remote}", seconds=ANSWER_SECONDS)
    if answer.returncode != 0 and "not exist" not in answer.stderr:  # an empty remote has no folder yet
        return Finding(
            "DVC", f"remote {remote}: {error_line(answer)}", "error", "see that it is up, and the credentials are set"
        )
    return Finding("DVC", f"{stages} stages on record; remote {remote} answers")
