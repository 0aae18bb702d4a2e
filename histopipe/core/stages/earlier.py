"""Traces that earlier versions of histopipe left in a checkout."""

from __future__ import annotations

from typing import Any

from histopipe.core.lineage import locked_stages
from histopipe.core.workspace import Workspace, stage_name

LIBRARY = "histopipe/"


def trained_by_earlier_version(dataset: str, workspace: Workspace) -> list[str]:
    """List the recipes whose training in `dvc.lock` depends on code that has been moved or deleted since.

    DVC calls such a training stale, whether or not the code itself has changed.

    Args:
        dataset: the data set's name.
        workspace: the checkout with `dvc.lock`.

    Returns:
        Names of recipes.
    """
    prefix = f"{stage_name('train', dataset)}-"
    return [
        name.removeprefix(prefix)
        for name, record in locked_stages(workspace).items()
        if name.startswith(prefix) and _names_missing_code(record, workspace)
    ]


def upgrade_note(dataset: str, workspace: Workspace) -> str | None:
    """Return a warning about what `dvc repro` trains again after an upgrade of histopipe; None if nothing.

    Args:
        dataset: the data set's name.
        workspace: the checkout with `dvc.lock`.
    """
    architectures = trained_by_earlier_version(dataset, workspace)
    if not architectures:
        return None
    stages = " ".join(stage_name("train", dataset, name) for name in architectures)
    return (
        f"{dataset}: {', '.join(architectures)} will be trained again: an earlier version of histopipe trained "
        f"{'it' if len(architectures) == 1 else 'them'}, with code that has been moved since. The champion stays and "
        "serves until a better model passes the gates. To keep the trained models instead: "
        f"`dvc commit --force {stages}`"
    )


def _names_missing_code(record: Any, workspace: Workspace) -> bool:
    named = record.get("deps", []) if isinstance(record, dict) else []
    paths = [str(entry.get("path", "")) for entry in named if isinstance(entry, dict)]
    return any(path.startswith(LIBRARY) and not (workspace.root / path).exists() for path in paths)
