"""Detection of changes in a source since it was last used for results."""

from __future__ import annotations

from histopipe.core.workspace import Workspace
from histopipe.ingest.sources.record import SourceRecord


def describe_change(dataset: str, workspace: Workspace) -> str | None:
    """Describe in a few words how the located source differs from the one last used; None if it doesn't.

    Raises:
        HistopipeError: a record is missing or damaged.
    """
    current, used = SourceRecord.read(workspace.source(dataset)), workspace.used_source(dataset)
    if not used.exists():
        return "first seen"
    last = SourceRecord.read(used)
    if last == current:
        return None
    if last.source != current.source:
        return f"{current.source} instead of {last.source}"
    size_changed = last.size and current.size and last.size != current.size
    sizes = f" ({last.size:,} -> {current.size:,} bytes)" if size_changed else ""
    return f"changed{sizes}"


def record_use(record: SourceRecord, dataset: str, workspace: Workspace) -> None:
    """Record that results were made from a source.

    Args:
        record: the record of the source from before the results were made.
        dataset: name of the data set.
        workspace: paths of the checkout.
    """
    record.write(workspace.used_source(dataset))
