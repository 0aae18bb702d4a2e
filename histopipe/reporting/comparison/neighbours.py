"""Rows of the comparison for models that use a patch's neighbours too."""

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
    """Evaluate `RECIPE + neighbours` for every recipe.

    Args:
        evaluated: the evaluated architectures.
        index: the store's index.
        params: rule for the threshold, number of resamples and seed.

    Returns:
        The evaluated rows, and rows with the reason for those that can't be computed.
    """
    rows: list[EvaluatedModel] = []
    absent: list[UnrankedRow] = []
    for model in evaluated:
        name = model.row["architecture"] + NEIGHBOURS
        try:
            logits = neighbourhood_logits(model.predictions, index)
        except EvaluationError as problem:
            absent.append({"architecture": name, "state": "not made", "reason": str(problem)})
            continue
        rows.append(evaluate_row(name, logits, [model.row], params))
    return rows, absent
