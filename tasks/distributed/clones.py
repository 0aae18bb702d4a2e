"""The state that a worker's clone must share with the flow's, and how it is transferred."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import yaml

from histopipe.core.errors import HistopipeError
from histopipe.core.files import write_text
from histopipe.core.lineage import git_commit
from histopipe.core.locking import exclusive_lock
from histopipe.core.workspace import Workspace

READ_BY_WORKERS = ("ingest", "split", "split_variant", "weights")  # kinds of stages that run in the flow's clone
OWN_FILES = ("params.yaml", "dvc.lock")  # files that a worker's clone gets from the flow's


@dataclass(frozen=True)
class Clone:
    """The state of a clone that another one needs to run the same stages.

    Attributes:
        commit: the commit that is checked out; None outside git.
        params: the text of `params.yaml`.
        lock: the text of `dvc.lock`; empty where nothing has run yet.
    """

    commit: str | None
    params: str
    lock: str

    @classmethod
    def of_workspace(cls, workspace: Workspace) -> Clone:
        """Describe this checkout as it is now.

        Raises:
            HistopipeError: the checkout's code differs from its commit, so that no other clone can have it.
        """
        _require_committed(workspace)
        lock = workspace.dvc_lock.read_text(encoding="utf-8") if workspace.dvc_lock.exists() else ""
        return cls(git_commit(workspace.root), workspace.params.read_text(encoding="utf-8"), lock)

    @contextmanager
    def applied_to(self, workspace: Workspace) -> Iterator[None]:
        """Give another clone these parameters and this lock file, for one stage at a time.

        Raises:
            HistopipeError: that clone has other code.
        """
        with exclusive_lock(workspace.lock("clone")):
            here = git_commit(workspace.root)
            if here != self.commit:
                raise HistopipeError(
                    f"the clone at {workspace.root} is at commit {here}, the flow's at {self.commit}: "
                    f"`git checkout {self.commit}` there"
                )
            _require_committed(workspace)
            write_text(workspace.params, self.params)
            if self.lock:
                write_text(workspace.dvc_lock, self.lock)
            yield

    def inputs_of(self, stage: str) -> list[str]:
        """List the recorded stages that a stage reads from and that workers don't run."""
        about = stage.partition("@")[2]  # idc-cancernet or idc-cancernet-fold-3; names may hold dashes themselves
        recorded = (yaml.safe_load(self.lock) or {}).get("stages") or {} if self.lock else {}
        names = []
        for name in recorded:
            kind, _, of = name.partition("@")
            mine = {"weights": f"-{of}-" in f"-{about}-", "split_variant": of == about}
            if kind in READ_BY_WORKERS and mine.get(kind, about.startswith(f"{of}-")):
                names.append(name)
        return names


def _require_committed(workspace: Workspace) -> None:
    others = [f":!{name}" for name in OWN_FILES]
    command = ["git", "status", "--porcelain", "--untracked-files=no", "--", ".", *others]
    changed = subprocess.run(command, cwd=workspace.root, capture_output=True, text=True, check=False).stdout
    if changed.strip():
        first = changed.splitlines()[0][3:]
        raise HistopipeError(f"{workspace.root}: {first} differs from its commit, which other clones have: commit it")
