"""The number of promotions that used the test cases before the page was made, from the registry's ledger."""

from __future__ import annotations

from histopipe.core.cases.readings import shared_ids
from histopipe.core.errors import HistopipeError
from histopipe.core.workspace import Workspace
from histopipe.data.splitting.membership import read_membership
from histopipe.tracking.stores import is_database_missing

_NEVER = "No promotion has used these test cases yet."


def looks_line(dataset: str, workspace: Workspace) -> str:
    """State how many promotions used the current test cases, and how many trainings were evaluated on them."""
    if is_database_missing(workspace):
        return _NEVER
    from histopipe.tracking.ledger import count_looks_at
    from histopipe.tracking.registry import open_registry

    split = read_membership(workspace.split(dataset))
    cases = split.loc[split["split"] == "test", "case_id"].unique()
    try:
        with open_registry(dataset, workspace) as registry:
            counts = count_looks_at(registry, shared_ids(cases, dataset))
    except HistopipeError as problem:
        return f"The number of promotions that used these test cases is unknown: {problem}."
    if not counts.judged:
        return _NEVER
    fresh = f" {counts.fresh:,} of the {counts.cases:,} cases have not been used." if counts.fresh else ""
    return (
        f"When this page was made, {counts.judged:,} promotion{'s' if counts.judged > 1 else ''} had been decided on "
        f"these test cases, for which {counts.trainings:,} trainings had been evaluated: the best of many models on "
        f"the same cases looks better than it is.{fresh}"
    )
