"""Whether a stage, a flow or DVC works in this checkout: then everything may be needed."""

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


def going_on(workspace: Workspace) -> list[str]:
    """What works in the checkout now, in words; empty where nothing does.

    Asked are the locks of stages, in DVC's experiment folders too, and of a Dask worker's tasks, this machine's
    processes, and Prefect's server.

    Raises:
        requests.RequestException, ValueError: a Prefect server is set and can't be asked.
    """
    found = [f"stage {name}" for place in _checkouts(workspace) for name in running_stages(place)]
    clone = workspace.lock("clone")
    found += ["a Dask worker's task"] if clone.exists() and is_held(clone) else []
    found += _processes(workspace)
    server = prefect_server(workspace.home)
    return found + (_flow_runs(server, workspace) if server else [])


def _checkouts(workspace: Workspace) -> list[Workspace]:
    """The checkout and the folders in which DVC runs experiments."""
    inner = (path.parent for path in (workspace.home / ".dvc" / "tmp" / "exps").glob("*/*/.locks"))
    return [Workspace(workspace.home), *map(Workspace, inner)]


def _processes(workspace: Workspace) -> list[str]:
    """Flows and DVC commands of this machine that run in the checkout, but for those that this process belongs to."""
    own = {process.pid for process in (psutil.Process(), *psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid in own or not _is_within(process.cwd(), workspace):
                continue
            command = process.cmdline()
        except psutil.Error:  # ended meanwhile, or another user's
            continue
        if said := _work(command):
            found.append(f"{said} (process {process.pid})")
    return found


def _is_within(folder: str, workspace: Workspace) -> bool:
    home = str(workspace.home.resolve())
    return folder == home or folder.startswith(f"{home}/")


def _work(command: list[str]) -> str:
    """What a process does that may need what lies here; empty for a server, a shell, an editor."""
    words = command[:5]
    for place, word in enumerate(words):
        if not _WORKING.search(word):
            continue
        if "dvc" in word:
            doing = next((next_word for next_word in command[place + 1 :] if next_word in _COMMANDS), "")
            return f"dvc {doing}" if doing else ""
        return word
    return ""


def _flow_runs(server: PrefectServer, workspace: Workspace) -> list[str]:
    """Runs of deployments that may run here; those started by hand on this machine are among its processes."""
    asked = {"flow_runs": {"state": {"type": {"any_": list(FLOW_STATES)}}}, "limit": 200}
    runs = [run for run in server.ask("flow_runs/filter", asked) if run.get("deployment_id")]
    places: dict[str, bool] = {}
    for identifier in {run["deployment_id"] for run in runs}:
        places[identifier] = _runs_here(server.ask(f"deployments/{identifier}"), workspace)
    return [
        f"Prefect flow run {run['name']} (if it is long dead: `prefect flow-run cancel {run['id']}`)"
        for run in runs
        if places[run["deployment_id"]]
    ]


def _runs_here(deployment: dict[str, Any], workspace: Workspace) -> bool:
    """Whether runs of a deployment may work in this checkout: unless it says that they work in another folder."""
    steps = [step for step in deployment.get("pull_steps") or [] if isinstance(step, dict)]
    if any(ENTER in step for step in steps):
        return True
    options = [one for step in steps for one in step.values() if isinstance(one, dict)]
    named = [deployment.get("path"), *(one.get("directory") for one in options)]
    folders = [Path(name) for name in named if name and Path(name).is_absolute()]
    return not folders or any(folder.resolve() == workspace.home.resolve() for folder in folders)
