"""Whether a source changed since results were last made from it."""

from __future__ import annotations

from histopipe.core.workspace import Workspace
from histopipe.ingest.sources.record import SourceRecord


def change_since_last_use(dataset: str, workspace: Workspace) -> str | None:
    """What is new about the source that `locate` found, in a few words; None if nothing is.

    Raises:
        HistopipeError: a record is missing or damaged.
    """
    now, used = SourceRecord.read(workspace.source(dataset)), workspace.used_source(dataset)
    if not used.exists():
        return "first seen"
    before = SourceRecord.read(used)
    if before == now:
        return None
    if before.source != now.source:
        return f"{now.source} instead of {before.source}"
    grown = f" ({before.size:,} -> {now.size:,} bytes)" if before.size and now.size and before.size != now.size else ""
    return f"changed{grown}"


def remember_use(record: SourceRecord, dataset: str, workspace: Workspace) -> None:
    """Note that results were made from a source as `locate` found it before they were made."""
    record.write(workspace.used_source(dataset))
