"""Test patches that count for a gate: of cases that no model behind it has seen, under any id."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from histopipe.core.workspace import Workspace
from histopipe.data.splitting.record import copies_of
from histopipe.promotion.candidate import Candidate
from histopipe.promotion.gates import unseen


def unseen_patches(candidate: Candidate, workspace: Workspace, *seen: Iterable[str]) -> pd.DataFrame:
    """Return the candidate's test patches of cases that neither it nor others have seen.

    Args:
        candidate: whose predictions they are.
        workspace: whose split's record tells which ids share patches: a case whose copy was seen counts as seen.
        seen: case ids that each of the others trained or validated on.
    """
    lists = [*candidate.seen, *(case for cases in seen for case in cases)]
    return unseen(candidate.test, lists, copies_of(lists, candidate.dataset, workspace), dataset=candidate.dataset)
