"""How often the test cases had been looked at when the page was made, as the registry's ledger counts."""

from __future__ import annotations

from histopipe.core.cases.readings import shared_ids
from histopipe.core.errors import HistopipeError
from histopipe.core.workspace import Workspace
from histopipe.data.splitting.membership import read_membership
from histopipe.tracking.stores import is_database_missing

_NEVER = "No promotion has looked at these test cases yet."


def looks_line(dataset: str, workspace: Workspace) -> str:
    """Say how many promotions were judged on today's test cases, and how many trainings graded on them."""
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
        return f"How often these test cases have been looked at isn't known: {problem}."
    if not counts.judged:
        return _NEVER
    fresh = f" {counts.fresh:,} of the {counts.cases:,} cases have not been looked at." if counts.fresh else ""
    return (
        f"When this page was made, {counts.judged:,} promotion{'s' if counts.judged > 1 else ''} had been judged on "
        f"these test cases, and {counts.trainings:,} trainings graded for them: what is best among many on the same "
        f"cases looks better than it is.{fresh}"
    )
