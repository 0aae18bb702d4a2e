"""Rows of the comparison that take a patch's surroundings into account."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from histopipe.core.errors import EvaluationError
from histopipe.core.params import Params
from histopipe.evaluation.neighbourhood import neighbourhood_logits
from histopipe.reporting.comparison.combination import evaluate_row
from histopipe.reporting.comparison.evaluations import EvaluatedModel
from histopipe.reporting.comparison.record import UnrankedRow

NEIGHBOURS = " + neighbours"


def with_neighbours(
    evaluated: Sequence[EvaluatedModel], index: pd.DataFrame, params: Params
) -> tuple[list[EvaluatedModel], list[UnrankedRow]]:
    """`A + neighbours` for every architecture, graded as those are; and the reasons of those that can't be had.

    Args:
        evaluated: the evaluated architectures.
        index: the store's.
        params: rule of the threshold, resamples and seed.
    """
    found: list[EvaluatedModel] = []
    absent: list[UnrankedRow] = []
    for each in evaluated:
        name = each.row["architecture"] + NEIGHBOURS
        try:
            logits = neighbourhood_logits(each.predictions, index)
        except EvaluationError as problem:
            absent.append({"architecture": name, "state": "not made", "reason": str(problem)})
            continue
        found.append(evaluate_row(name, logits, [each.row], params))
    return found, absent
