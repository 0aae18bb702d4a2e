"""What earlier versions of histopipe left in a checkout that is theirs no longer."""

from __future__ import annotations

from typing import Any

from histopipe.core.lineage import locked_stages
from histopipe.core.workspace import Workspace, stage_name

LIBRARY = "histopipe/"


def trained_by_earlier_version(dataset: str, workspace: Workspace) -> list[str]:
    """List the architectures whose training on record names code that no longer lies where it did.

    DVC calls such a training stale, whatever has become of the code.

    Args:
        dataset: its name.
        workspace: holds `dvc.lock`.
    """
    prefix = f"{stage_name('train', dataset)}-"
    return [
        name.removeprefix(prefix)
        for name, record in locked_stages(workspace).items()
        if name.startswith(prefix) and _names_missing_code(record, workspace)
    ]


def upgrade_note(dataset: str, workspace: Workspace) -> str | None:
    """Say before anything runs what an upgrade of histopipe makes `dvc repro` train again; None where nothing.

    Args:
        dataset: its name.
        workspace: holds `dvc.lock`.
    """
    architectures = trained_by_earlier_version(dataset, workspace)
    if not architectures:
        return None
    stages = " ".join(stage_name("train", dataset, name) for name in architectures)
    return (
        f"{dataset}: {', '.join(architectures)} will be trained again: an earlier version of histopipe trained "
        f"{'it' if len(architectures) == 1 else 'them'}, with code that lies elsewhere now. The champion stays and "
        f"serves until a better model passes the gates. To keep what is trained instead: `dvc commit --force {stages}`"
    )


def _names_missing_code(record: Any, workspace: Workspace) -> bool:
    named = record.get("deps", []) if isinstance(record, dict) else []
    paths = [str(entry.get("path", "")) for entry in named if isinstance(entry, dict)]
    return any(path.startswith(LIBRARY) and not (workspace.root / path).exists() for path in paths)
