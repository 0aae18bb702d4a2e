"""Which cases changed their split since an earlier commit."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from histopipe.errors import SplitError
from histopipe.paths import Workspace
from histopipe.splitting.membership import read_membership


def moved_cases(dataset: str, revision: str, workspace: Workspace) -> str:
    """Describe what changed in a data set's split since `revision`, one case a line.

    Raises:
        SplitError: the split of that revision can't be had.
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
    # by this interpreter: `dvc` may not be on the path where the virtual environment isn't activated
    command = [sys.executable, "-m", "dvc", "get", ".", relative, "--rev", revision, "--out", str(target), "--quiet"]
    result = subprocess.run(command, cwd=workspace.root, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        reason = (result.stderr.strip() or "no such revision").splitlines()[-1]
        raise SplitError(f"{relative} as of {revision} can't be had: {reason}")
    return target
