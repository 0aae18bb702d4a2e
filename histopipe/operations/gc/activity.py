"""Detection of stages, flows and DVC commands that run in this checkout, since they may need any file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import psutil

from histopipe.core.locking import is_held
from histopipe.core.stages.running import running_stages
from histopipe.core.workspace import Workspace
from histopipe.operations.servers import PrefectServer, prefect_server

FLOW_STATES = ("PENDING", "RUNNING", "CANCELLING")
ENTER = "flows.checkout.enter"  # the pull step of prefect.yaml: a worker runs flows in its own checkout
_WORKING = re.compile(r"flows\.(?!serve|limits)\w+|prefect\.(?:flow_)?engine|(?:^|/)dvc$|^dvc\.")
_COMMANDS = frozenset({"repro", "exp", "checkout", "pull", "fetch", "commit", "add", "push", "gc", "run", "import"})


def list_activities(workspace: Workspace) -> list[str]:
    """Describe what runs in the checkout now; empty if nothing does.

    The sources are the locks of stages, also in DVC's experiment folders, and of a Dask worker's tasks, the processes
    of this machine, and Prefect's server.

    Raises:
        requests.RequestException, ValueError: a Prefect server is configured and can't be reached.
    """
    activities = [f"stage {name}" for checkout in _checkouts(workspace) for name in running_stages(checkout)]
    clone = workspace.lock("clone")
    activities += ["a Dask worker's task"] if clone.exists() and is_held(clone) else []
    activities += _processes(workspace)
    server = prefect_server(workspace.checkout)
    return activities + (_flow_runs(server, workspace) if server else [])


def _checkouts(workspace: Workspace) -> list[Workspace]:
    """Return the checkout and the folders in which DVC runs experiments."""
    inner = (path.parent for path in (workspace.checkout / ".dvc" / "tmp" / "exps").glob("*/*/.locks"))
    return [Workspace(workspace.checkout), *map(Workspace, inner)]


def _processes(workspace: Workspace) -> list[str]:
    """Describe the flows and DVC commands of this machine in the checkout, except the ancestors of this process."""
    own = {process.pid for process in (psutil.Process(), *psutil.Process().parents())}
    running = []
    for process in psutil.process_iter():
        try:
            if process.pid in own or not _is_within(process.cwd(), workspace):
                continue
            command = process.cmdline()
        except psutil.Error:  # ended meanwhile, or another user's
            continue
        if work := _describe_command(command):
            running.append(f"{work} (process {process.pid})")
    return running


def _is_within(folder: str, workspace: Workspace) -> bool:
    home = str(workspace.checkout.resolve())
    return folder == home or folder.startswith(f"{home}/")


def _describe_command(command: list[str]) -> str:
    """Describe a command that may need files of the checkout; empty for a server, a shell or an editor."""
    words = command[:5]
    for position, word in enumerate(words):
        if not _WORKING.search(word):
            continue
        if "dvc" in word:
            doing = next((next_word for next_word in command[position + 1 :] if next_word in _COMMANDS), "")
            return f"dvc {doing}" if doing else ""
        return word
    return ""


def _flow_runs(server: PrefectServer, workspace: Workspace) -> list[str]:
    """Describe runs of deployments that may run here; those started by hand are among this machine's processes."""
    query = {"flow_runs": {"state": {"type": {"any_": list(FLOW_STATES)}}}, "limit": 200}
    runs = [run for run in server.ask("flow_runs/filter", query) if run.get("deployment_id")]
    runs_here: dict[str, bool] = {}
    for identifier in {run["deployment_id"] for run in runs}:
        runs_here[identifier] = _runs_here(server.ask(f"deployments/{identifier}"), workspace)
    return [
        f"Prefect flow run {run['name']} (if it is long dead: `prefect flow-run cancel {run['id']}`)"
        for run in runs
        if runs_here[run["deployment_id"]]
    ]


def _runs_here(deployment: dict[str, Any], workspace: Workspace) -> bool:
    """Return whether runs of a deployment may work in this checkout: not if it names another folder."""
    steps = [step for step in deployment.get("pull_steps") or [] if isinstance(step, dict)]
    if any(ENTER in step for step in steps):
        return True
    options = [values for step in steps for values in step.values() if isinstance(values, dict)]
    named = [deployment.get("path"), *(values.get("directory") for values in options)]
    folders = [Path(name) for name in named if name and Path(name).is_absolute()]
    return not folders or any(folder.resolve() == workspace.checkout.resolve() for folder in folders)
