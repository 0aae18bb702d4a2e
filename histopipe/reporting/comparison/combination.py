"""Rows of the comparison that need no further training: an ensemble, and networks without or with averaging."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from histopipe.core.operating_point import EvaluatedPoint
from histopipe.core.params import Params
from histopipe.core.training_record import CopiedTrainingFields
from histopipe.data.leakage import worst_state
from histopipe.evaluation.calibration import log_odds
from histopipe.evaluation.cases import patch_columns
from histopipe.evaluation.predictions import choose_operating_point, evaluate_predictions, predictions_table
from histopipe.reporting.comparison.evaluations import EvaluatedModel
from histopipe.reporting.comparison.record import Member, ModelRow

ENSEMBLE = "ensemble"
ONE_VIEW, D4 = ", one view", ", D4"
_VIEWS = {"one_view": ONE_VIEW, "d4": D4}  # columns of predictions.parquet


def combination_rows(evaluated: Sequence[EvaluatedModel], params: Params) -> list[EvaluatedModel]:
    """Evaluate combinations of the models' predictions.

    Each is calibrated on validation and gets its own threshold. `A, one view` is an averaged network that sees each
    patch in one orientation; `A, D4` is another network averaged over the eight symmetries; `ensemble` is the mean of
    all architectures' log odds.

    Args:
        evaluated: the evaluated architectures.
        params: rule for the threshold, number of resamples and seed.
    """
    rows = [
        evaluate_row(model.row["architecture"] + title, _view_logits(model.predictions, column), [model.row], params)
        for model in evaluated
        for column, title in _VIEWS.items()
        if column in model.predictions
    ]
    if len(evaluated) > 1:
        logits = ensemble_logits([model.predictions for model in evaluated])
        rows.append(evaluate_row(ENSEMBLE, logits, [model.row for model in evaluated], params))
    return rows


def _view_logits(predictions: pd.DataFrame, column: str) -> pd.DataFrame:
    return predictions[patch_columns(predictions)].assign(logit=log_odds(predictions[column].to_numpy()))


def ensemble_logits(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Average the log odds of several networks' predictions of the same patches.

    Returns:
        A table with `patch_columns` and `logit`, of the patches that every network predicted.
    """
    odds = [pd.Series(log_odds(table["probability"].to_numpy()), table["file"]) for table in tables]
    mean = pd.concat(odds, axis=1, join="inner").mean(axis=1).rename("logit")
    return tables[0][patch_columns(tables[0])].merge(mean, left_on="file", right_index=True)


def evaluate_row(name: str, logits: pd.DataFrame, members: Sequence[Member], params: Params) -> EvaluatedModel:
    """Calibrate logits, choose their threshold and evaluate them, as the evaluate stage does.

    The row is descriptive: it isn't a recipe, and is excluded from ranks and their tests.

    Args:
        name: name of the row.
        logits: columns that `patch_columns` lists, and `logit`.
        members: rows of the members, from which the result takes its marks.
        params: rule for the threshold, number of resamples and seed.
    """
    locked = choose_operating_point(logits, params.evaluate.threshold)
    point: EvaluatedPoint = {**locked, "positive_class": members[0]["positive_class"]}
    marks: CopiedTrainingFields = {
        "quick": next((row["quick"] for row in members if row.get("quick")), None),
        "leaky": worst_state(row.get("leaky") for row in members) or None,
        "unlisted_train": any(row.get("unlisted_train") for row in members),
    }
    table = predictions_table(logits, point)
    metrics = evaluate_predictions(table, point, marks, params)
    row: ModelRow = {
        "architecture": name,
        "members": [member["architecture"] for member in members],
        "descriptive": True,
        **metrics,
    }
    return EvaluatedModel(row, table)
