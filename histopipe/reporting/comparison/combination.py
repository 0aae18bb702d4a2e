"""Further rows of the comparison that need no training: an ensemble, and a network without or with averaging."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from histopipe.core.operating_point import EvaluatedPoint
from histopipe.core.params import Params
from histopipe.core.training_record import TrainingMarks
from histopipe.data.leakage import worst_state
from histopipe.evaluation.calibration import log_odds
from histopipe.evaluation.cases import patch_columns
from histopipe.evaluation.grading import evaluate_predictions, locked_point, predictions_table
from histopipe.reporting.comparison.evaluations import EvaluatedModel
from histopipe.reporting.comparison.record import Member, ModelRow

ENSEMBLE = "ensemble"
ONE_VIEW, D4 = ", one view", ", D4"
_VIEWS = {"one_view": ONE_VIEW, "d4": D4}  # columns of predictions.parquet


def combination_rows(evaluated: Sequence[EvaluatedModel], params: Params) -> list[EvaluatedModel]:
    """What follows from the architectures' predictions, graded as those are.

    Each is calibrated anew and gets its threshold from validation. `A, one view` is an averaged network that sees each
    patch as it lies; `A, D4` is another one averaged over the eight symmetries; `ensemble` is the mean of all
    architectures' log odds.

    Args:
        evaluated: the evaluated architectures.
        params: rule of the threshold, resamples and seed.
    """
    found = [
        evaluate_row(each.row["architecture"] + title, _seen_so(each.predictions, column), [each.row], params)
        for each in evaluated
        for column, title in _VIEWS.items()
        if column in each.predictions
    ]
    if len(evaluated) > 1:
        logits = ensemble_logits([each.predictions for each in evaluated])
        found.append(evaluate_row(ENSEMBLE, logits, [each.row for each in evaluated], params))
    return found


def _seen_so(predictions: pd.DataFrame, column: str) -> pd.DataFrame:
    return predictions[patch_columns(predictions)].assign(logit=log_odds(predictions[column].to_numpy()))


def ensemble_logits(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Mean log odds over several networks' predictions of the same patches.

    Returns:
        `patch_columns` and `logit`; only patches that every network predicted.
    """
    odds = [pd.Series(log_odds(table["probability"].to_numpy()), table["file"]) for table in tables]
    mean = pd.concat(odds, axis=1, join="inner").mean(axis=1).rename("logit")
    return tables[0][patch_columns(tables[0])].merge(mean, left_on="file", right_index=True)


def evaluate_row(name: str, logits: pd.DataFrame, members: Sequence[Member], params: Params) -> EvaluatedModel:
    """Calibrate, choose the threshold and grade, as `evaluate` does; the marks are those of any member.

    The row is descriptive: it isn't one of the recipes, and takes no part in ranks and their tests.
    """
    locked = locked_point(logits, params.evaluate.threshold)
    point: EvaluatedPoint = {**locked, "positive_class": members[0]["positive_class"]}
    marks: TrainingMarks = {
        "quick": next((row["quick"] for row in members if row.get("quick")), None),
        "leaky": worst_state(row.get("leaky") for row in members) or None,
        "unlisted_train": any(row.get("unlisted_train") for row in members),
    }
    table = predictions_table(logits, point)
    graded = evaluate_predictions(table, point, marks, params)
    row: ModelRow = {
        "architecture": name,
        "members": [member["architecture"] for member in members],
        "descriptive": True,
        **graded,
    }
    return EvaluatedModel(row, table)
