"""Test patches that count for a gate: of cases that no model behind it has seen, under any id."""

from __future__ import annotations

import pandas as pd

from histopipe.core.workspace import Workspace
from histopipe.data.splitting.copies import cases_seen_as_pixels
from histopipe.data.splitting.record import find_copies
from histopipe.data.store import read_index
from histopipe.networks.weights.behind import pixels_seen
from histopipe.promotion.candidate import Candidate
from histopipe.promotion.champion import Champion
from histopipe.promotion.gates import unseen


def unseen_patches(candidate: Candidate, workspace: Workspace, *others: Champion) -> pd.DataFrame:
    """Return the candidate's test patches of cases that neither it nor others have seen.

    Args:
        candidate: whose predictions they are.
        workspace: whose split's record tells which ids share patches: a case whose copy was seen counts as seen.
        others: models whose training, and those behind it, tell which cases and patches they saw.
    """
    lists = [*candidate.seen, *(case for other in others for case in other.seen)]
    copies = find_copies(lists, candidate.dataset, workspace) | _seen_elsewhere(candidate, workspace, others)
    return unseen(candidate.test, lists, copies, dataset=candidate.dataset)


def _seen_elsewhere(candidate: Candidate, workspace: Workspace, others: tuple[Champion, ...]) -> set[str]:
    """The test cases whose patches another training saw under ids that mean nothing here.

    Of the candidate only what stands behind its weights: its own training read this store, whose copies are joined.
    """
    behind = pixels_seen({**candidate.record, "data": None})
    samples = [*behind, *(sample for other in others for sample in other.samples)]
    index = read_index(workspace.store(candidate.dataset))
    cases = set(candidate.test["case_id"])
    return cases_seen_as_pixels(index, cases, [sample.split() for sample in dict.fromkeys(samples)])
