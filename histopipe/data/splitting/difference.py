"""Cases that changed their split since an earlier commit."""

from __future__ import annotations

import tempfile
from pathlib import Path

from histopipe.core.dvc import error_line, run_dvc
from histopipe.core.errors import SplitError
from histopipe.core.workspace import Workspace
from histopipe.data.splitting.membership import read_membership


def moved_cases(dataset: str, revision: str, workspace: Workspace) -> str:
    """Describe what changed in a data set's split since `revision`, one line per case.

    Raises:
        SplitError: the split of that revision can't be fetched.
    """
    path = workspace.split(dataset)
    with tempfile.TemporaryDirectory() as folder:
        before = read_membership(_fetch(path, revision, workspace, Path(folder) / path.name))
    unit = "file" if "file" in before else "case_id"
    now = read_membership(path)
    if unit not in now or ("file" in now) != ("file" in before):
        return f"{dataset}: the scheme changed between image-level and case-level since {revision}"
    both = before.set_index(unit)[["split"]].join(now.set_index(unit)["split"], how="outer", lsuffix="_before")
    both = both.fillna("-")
    moved = both[both["split_before"] != both["split"]]
    lines = [f"{name}: {row['split_before']} -> {row['split']}" for name, row in moved.iterrows()]
    return "\n".join([*lines, f"{len(moved)} of {len(both)} moved since {revision}"])


def _fetch(path: Path, revision: str, workspace: Workspace, target: Path) -> Path:
    relative = path.relative_to(workspace.root).as_posix()
    done = run_dvc(workspace, "get", ".", relative, "--rev", revision, "--out", str(target), "--quiet")
    if done.returncode != 0:
        raise SplitError(
            f"{relative} as of {revision} can't be fetched ({error_line(done)}): name a commit whose dvc.lock has it, "
            "and run `dvc fetch --all-commits` if it was made elsewhere"
        )
    return target
