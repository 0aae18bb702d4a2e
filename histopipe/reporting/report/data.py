"""The report's first part: the data, the members set aside, and the split."""

from __future__ import annotations

from typing import TypedDict

from histopipe.core.cases.ids import spell_out
from histopipe.core.cases.readings import CASE_OF_READING, READING
from histopipe.core.params import Params
from histopipe.core.workspace import Workspace
from histopipe.data.splitting.record import CopiesRecord
from histopipe.data.store import REPORT_FILE, SetAsideFiles, StoreRecord, read_index
from histopipe.reporting.report.reading import TableRow, read_json_if_present, rows_of

LISTED = 8  # names of members set aside, per reason


class SetAsidePart(SetAsideFiles):
    """The members set aside for one reason, as the template uses them.

    Attributes:
        reason: the reason.
        names: names of some files or folders.
        more: number of further files or folders.
    """

    reason: str
    names: list[str]
    more: int


class DataPart(TypedDict):
    """The data as the template uses them.

    Attributes:
        source: where the data come from.
        synthetic: whether histopipe drew them.
        excluded: cases that are excluded.
        store: the store's report; empty if there is none.
        case: the definition of a case, in words; None if there is no choice.
        set_aside: the members set aside, by reason.
        report: path of the report that lists all of them.
    """

    source: str
    synthetic: bool
    excluded: list[str]
    store: StoreRecord
    case: str | None
    set_aside: list[SetAsidePart]
    report: str


def data_part(dataset: str, params: Params, workspace: Workspace) -> DataPart:
    """Collect what the template shows of the data; without the store's report that is only their source."""
    from histopipe.ingest.sources.wanted import SourceSpec

    path = workspace.store(dataset) / REPORT_FILE
    store: StoreRecord = read_json_if_present(path)
    return {
        "source": SourceSpec(dataset, params, workspace).display_source,
        "synthetic": params.dataset(dataset).source == "synthetic",
        "excluded": list(params.dataset(dataset).exclude_cases),
        "store": store,
        "case": CASE_OF_READING.get(store.get(READING, "")),
        "set_aside": [_set_aside(reason, entry) for reason, entry in (store.get("set_aside") or {}).items()],
        "report": path.relative_to(workspace.root).as_posix(),
    }


def _set_aside(reason: str, entry: SetAsideFiles) -> SetAsidePart:
    names = entry.get("files") or [f"{folder} ({count:,})" for folder, count in (entry.get("folders") or {}).items()]
    return {"reason": reason, **entry, "names": names[:LISTED], "more": max(0, len(names) - LISTED)}


def split_part(dataset: str, workspace: Workspace) -> list[TableRow]:
    """Count cases, patches and positives of each split."""
    from histopipe.data.splitting.membership import read_membership
    from histopipe.data.splitting.summary import summarise

    summary = summarise(read_membership(workspace.split(dataset)), read_index(workspace.store(dataset)))
    return rows_of(summary.rename_axis("split").reset_index())


def copies_part(dataset: str, workspace: Workspace) -> dict[str, list[str]]:
    """List the case ids that share patches, from the split's record: those that count as one, and those left out.

    Returns:
        `joined` and `left_out`, each a list of lines.
    """
    record: CopiesRecord = read_json_if_present(workspace.split_record(dataset))
    return {
        "joined": [" = ".join(map(spell_out, group)) for group in record.get("joined") or []],
        "left_out": [
            f"{spell_out(entry['case'])} ({entry['group']}), a copy of {spell_out(entry['copy'])} ({entry['stays']})"
            for entry in record.get("left_out") or []
        ],
    }


def title_of(dataset: str, params: Params) -> str:
    """Return the full name of a data set."""
    from histopipe.ingest.datasets import get_dataset, list_datasets

    block = params.dataset(dataset)
    if block.manifest is not None or dataset not in list_datasets():
        return dataset
    return get_dataset(dataset, block.magnification, block.case).title
