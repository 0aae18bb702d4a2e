"""Stages on other machines: Dask workers that each hold a clone of their own, and a DVC remote between them.

A worker gets the coordinator's parameters and `dvc.lock`, lets DVC pull what its stage reads, runs it, and pushes what
came XX"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from histopipe.errors import HistopipeError
from histopipe.files import write_text
from histopipe.lineage import git_commit
from histopipe.paths import Workspace

if TYPE_CHECKING:
    from prefect.task_runners import TaskRunner

METADATA = ["histopipe", "clone"]  # where the scheduler keeps what workers take over
GPU_RESOURCE = "GPU"  # what `dask worker --resources GPU=1` advertises


@dataclass(frozen=True)
class Clone:
    """What another clone needs to run the same stages.

    Attributes:
        commit: that is checked out; None outside git.
        params: the text of `params.yaml`.
        lock: the text of `dvc.lock`; empty where nothing has run yet.
    """

    commit: str | None
    params: str
    lock: str

    @classmethod
    def of(cls, workspace: Workspace) -> Clone:
        """This checkout, as it is now."""
        lock = workspace.dvc_lock.read_text(encoding="utf-8") if workspace.dvc_lock.exists() else ""
        return cls(git_commit(workspace.root), workspace.params.read_text(encoding="utf-8"), lock)

    def take_over(self, workspace: Workspace) -> None:
        """Give another clone these parameters and this record.

        Raises:
            HistopipeError: another commit is checked out there.
        """
        here = git_commit(workspace.root)
        if here != self.commit:
            raise HistopipeError(
                f"the clone at {workspace.root} is at commit {here}, the flow's at {self.commit}: "
                f"`git checkout {self.commit}` there"
            )
        write_text(workspace.params, self.params)
        if self.lock:
            write_text(workspace.dvc_lock, self.lock)


def on_dask(address: str) -> TaskRunner[Any]:
    """A task runner that gives submitted tasks to the workers of a scheduler.

    Args:
        address: the scheduler's, such as `tcp://HOST:8786`.
    """
    import dask
    from prefect_dask.task_runners import DaskTaskRunner

    class OnWorkers(DaskTaskRunner):
        """Hands over this clone with every task; trainings go to workers with a GPU, where there are any."""

        def submit(self, task: Any, *arguments: Any, **options: Any) -> Any:
            """Submit a task; see `DaskTaskRunner`."""
            self.client.set_metadata(METADATA, asdict(Clone.of(Workspace.around())))
            trains = "gpu" in task.tags and _have_gpus(self.client)
            with dask.annotate(resources={GPU_RESOURCE: 1}) if trains else nullcontext():  # type: ignore[attr-defined]
                return super().submit(task, *arguments, **options)

    return OnWorkers(address=address)


def _have_gpus(client: Any) -> bool:
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return any(worker["resources"].get(GPU_RESOURCE) for worker in workers)


def handed_over() -> Clone | None:
    """What the flow's clone gave to the worker that runs this; None in the flow's own process."""
    if "distributed" not in sys.modules:
        return None
    from distributed import get_client, get_worker

    try:
        get_worker()
    except ValueError:
        return None
    return Clone(**get_client().get_metadata(METADATA))


def share(paths: Iterable[str]) -> None:
    """Push what DVC keeps at these paths or of these stages, and the run-cache, to the remote.

    Raises:
        HistopipeError: there is no remote, or it can't be reached.
    """
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "push", "--run-cache", *paths]
    done = subprocess.run(command, cwd=Workspace.around().root, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["no word"])[-1].removeprefix("ERROR: ")
        raise HistopipeError(f"DVC's remote can't be written ({said}): see `dvc remote list` and docs/production.md")
