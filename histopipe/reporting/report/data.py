"""The page's first part: the data, what was set aside, and how cases are divided."""

from __future__ import annotations

from typing import TypedDict

from histopipe.core.cases.ids import spelt
from histopipe.core.cases.readings import CASE_OF_READING, READING
from histopipe.core.params import Params
from histopipe.core.workspace import Workspace
from histopipe.data.splitting.record import CopiesRecord
from histopipe.data.store import REPORT_FILE, SetAsideFiles, StoreReport, read_index
from histopipe.reporting.report.reading import TableRow, known_json, records

LISTED = 8  # names of what was set aside, per reason


class SetAsidePart(SetAsideFiles):
    """What was set aside for one reason, as the template takes it.

    Attributes:
        reason: why.
        names: some of the files or folders.
        more: how many there are beside these.
    """

    reason: str
    names: list[str]
    more: int


class DataPart(TypedDict):
    """The data as the template takes them.

    Attributes:
        source: where they come from.
        synthetic: whether they are drawn.
        excluded: cases that take no part.
        found: the store's report; empty where there is none.
        case: what counts as one, in words; None where there is no choice.
        set_aside: by reason.
        report: where the rest is listed.
    """

    source: str
    synthetic: bool
    excluded: list[str]
    found: StoreReport
    case: str | None
    set_aside: list[SetAsidePart]
    report: str


def data_part(dataset: str, params: Params, workspace: Workspace) -> DataPart:
    """What `ingest` found, under the names that the template uses; without its report, only where the data come from.

    Returns:
        `source`, `synthetic`, `excluded` cases, `found` (content of `report.json`), `set_aside` (per reason: count,
        whether it is bad, and some names), and `report`, where the rest is listed.
    """
    from histopipe.ingest.sources.wanted import SourceSpec

    path = workspace.store(dataset) / REPORT_FILE
    found: StoreReport = known_json(path)
    return {
        "source": SourceSpec(dataset, params, workspace).display_source,
        "synthetic": params.dataset(dataset).source == "synthetic",
        "excluded": list(params.dataset(dataset).exclude_cases),
        "found": found,
        "case": CASE_OF_READING.get(found.get(READING, "")),
        "set_aside": [_set_aside(reason, entry) for reason, entry in (found.get("set_aside") or {}).items()],
        "report": path.relative_to(workspace.root).as_posix(),
    }


def _set_aside(reason: str, entry: SetAsideFiles) -> SetAsidePart:
    names = entry.get("files") or [f"{folder} ({count:,})" for folder, count in (entry.get("folders") or {}).items()]
    return {"reason": reason, **entry, "names": names[:LISTED], "more": max(0, len(names) - LISTED)}


def split_part(dataset: str, workspace: Workspace) -> list[TableRow]:
    """Cases, patches and positives of each split."""
    from histopipe.data.splitting.membership import read_membership
    from histopipe.data.splitting.summary import summarise

    summary = summarise(read_membership(workspace.split(dataset)), read_index(workspace.store(dataset)))
    return records(summary.rename_axis("split").reset_index())


def copies_part(dataset: str, workspace: Workspace) -> dict[str, list[str]]:
    """Which case ids count as one since they share patches, and which take no part for it, as the split's record says.

    Returns:
        `joined` and `left_out`, each a list of lines.
    """
    record: CopiesRecord = known_json(workspace.split_record(dataset))
    return {
        "joined": [" = ".join(map(spelt, group)) for group in record.get("joined") or []],
        "left_out": [
            f"{spelt(entry['case'])} ({entry['group']}), a copy of {spelt(entry['copy'])} ({entry['stays']})"
            for entry in record.get("left_out") or []
        ],
    }


def title_of(dataset: str, params: Params) -> str:
    """What a data set is called in full."""
    from histopipe.ingest.datasets import get_dataset, list_datasets

    block = params.dataset(dataset)
    if block.manifest is not None or dataset not in list_datasets():
        return dataset
    return get_dataset(dataset, block.magnification, block.case).title
