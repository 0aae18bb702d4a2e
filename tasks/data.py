"""Tasks from the source to the split."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from histopipe.core.workspace import Workspace, stage_name
from histopipe.data.splitting.membership import read_membership
from histopipe.data.splitting.record import read_split_record
from histopipe.data.store import read_store_record
from histopipe.ingest.sources.record import SourceRecord
from histopipe.ingest.sources.watch import describe_change, record_use
from tasks.artifacts import publish_image, publish_table
from tasks.declaration import stage_task
from tasks.distributed import decode_on_workers
from tasks.reproduction import reproduce


@stage_task("locate", retries=2, delay=10)
def locate(dataset: str) -> Path:
    """Look at the source again: the later stages depend on whether it changed."""
    reproduce(stage_name("locate", dataset), force=True)
    return Workspace.find().source(dataset)


@stage_task("fetch", retries=2, delay=30)
def fetch(dataset: str) -> Path:
    """Fetch the archive; return its folder."""
    reproduce(stage_name("fetch", dataset))
    return Workspace.find().raw(dataset)


@stage_task("ingest")
def ingest(dataset: str) -> Path:
    """Pack the archive, with parts decoded by workers where there are any; return the store's folder."""
    decode_on_workers(dataset)
    reproduce(stage_name("ingest", dataset))
    store = Workspace.find().store(dataset)
    report = read_store_record(store)
    counts = {name: report[name] for name in ("patches", "cases", "positive", "undersized", "second_copies", "bad")}
    publish_table([counts], f"Contents of {dataset} after ingest", "ingest", dataset)
    return store


@stage_task("split")
def split(dataset: str) -> Path:
    """Divide the cases; return the split file."""
    reproduce(stage_name("split", dataset))
    workspace = Workspace.find()
    summary = read_split_record(workspace.split_record(dataset))["summary"]
    publish_table([dict(row) for row in summary], f"Split of the cases of {dataset}", "split", dataset)
    publish_image(workspace.split_plot(dataset), f"Split of the cases of {dataset}", "split-plot", dataset)
    return workspace.split(dataset)


def source_change(dataset: str) -> str | None:
    """Describe what changed in a source that was just located; None if nothing did."""
    return describe_change(dataset, Workspace.find())


def source_record(dataset: str) -> SourceRecord:
    """Read the record of a source that was just located."""
    return SourceRecord.read(Workspace.find().source(dataset))


def use_source(record: SourceRecord, dataset: str) -> None:
    """Record that results were made from the source as it was located before."""
    record_use(record, dataset, Workspace.find())


def splits_of_cases(dataset: str) -> pd.Series:
    """Return the split of every known case; empty before the first split."""
    path = Workspace.find().split(dataset)
    if not path.exists():
        return pd.Series(dtype=str)
    table = read_membership(path)
    return table.drop_duplicates("case_id").set_index("case_id")["split"]


def show_growth(dataset: str, before: pd.Series) -> None:
    """Publish the number of cases that each split gained, and how many it had before."""
    after = splits_of_cases(dataset)
    new = after[~after.index.isin(before.index)]
    rows = [
        {"split": split, "before": int((before == split).sum()), "new cases": int((new == split).sum())}
        for split in ("train", "validation", "test")
    ]
    publish_table(rows, f"New cases of {dataset}", "growth", dataset)
