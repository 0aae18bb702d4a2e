"""The test patches that count for a gate: those of cases that none of the compared models has seen, under any id."""

from __future__ import annotations

import pandas as pd

from histopipe.core.workspace import Workspace
from histopipe.data.splitting.copies import cases_seen_as_pixels
from histopipe.data.splitting.record import find_copies
from histopipe.data.store import read_index
from histopipe.networks.weights.seen_data import pixels_seen
from histopipe.promotion.candidate import Candidate
from histopipe.promotion.champion import Champion
from histopipe.promotion.gates import select_unseen


def unseen_patches(candidate: Candidate, workspace: Workspace, *others: Champion) -> pd.DataFrame:
    """Return the candidate's test patches of cases that neither it nor others have seen.

    Args:
        candidate: the model with its test patches.
        workspace: the checkout; its split's record lists ids that share patches, so that a copy of a seen case counts
            as seen.
        others: models that it is compared with; the records of their trainings list the cases and patches they saw.
    """
    lists = [*candidate.seen, *(case for other in others for case in other.seen)]
    copies = find_copies(lists, candidate.dataset, workspace) | _seen_elsewhere(candidate, workspace, others)
    return select_unseen(candidate.test, lists, copies, dataset=candidate.dataset)


def _seen_elsewhere(candidate: Candidate, workspace: Workspace, others: tuple[Champion, ...]) -> set[str]:
    """Return the test cases whose patches another training saw under other ids.

    Of the candidate, only the trainings that its weights come from are checked: its own training read this store, in
    which copies share a case.
    """
    behind = pixels_seen({**candidate.record, "data": None})
    samples = [*behind, *(sample for other in others for sample in other.samples)]
    index = read_index(workspace.store(candidate.dataset))
    cases = set(candidate.test["case_id"])
    return cases_seen_as_pixels(index, cases, [sample.split() for sample in dict.fromkeys(samples)])
