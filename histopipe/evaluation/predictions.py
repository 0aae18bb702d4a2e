"""Turn logits into calibrated predictions and evaluate them, for the evaluate stage and combinations of models."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
from scipy.special import expit

from histopipe.core.errors import EvaluationError
from histopipe.core.files import restore_command
from histopipe.core.operating_point import ChosenPoint, EvaluatedPoint
from histopipe.core.params import Params, ThresholdRule
from histopipe.core.training_record import CopiedTrainingFields
from histopipe.evaluation.calibration import Calibration, fit_calibration
from histopipe.evaluation.case_kinds import within_kinds
from histopipe.evaluation.cases import counted_cases
from histopipe.evaluation.cautions import cautions
from histopipe.evaluation.intervals import estimate_metrics
from histopipe.evaluation.metrics import Predictions, compute_metrics, probability_metrics
from histopipe.evaluation.record import MetricsRecord
from histopipe.evaluation.thresholds import choose_threshold, decide

EVALUATED_SPLITS = ("validation", "test")
PREDICTED = ("file", "case_id", "split", "label", "probability", "decision")


def choose_operating_point(logits: pd.DataFrame, rule: ThresholdRule) -> ChosenPoint:
    """Choose calibration and threshold on validation: `temperature`, `offset`, `threshold` and `rule`.

    Args:
        logits: columns `case_id`, `split`, `label` and `logit`, and those of `counted_cases`; a rule without a bound
            needs no cases.
        rule: rule for choosing the threshold.

    Raises:
        EvaluationError: the rule needs a bound, for which there are too few cases.
    """
    validation = logits[logits["split"] == "validation"]
    labels, values = validation["label"].to_numpy(), validation["logit"].to_numpy()
    calibration = fit_calibration(values, labels)
    cases = None if rule.confidence is None else counted_cases(validation)
    return {
        "temperature": calibration.temperature,
        "offset": calibration.offset,
        "threshold": choose_threshold(rule, labels, calibration.apply(values), cases),
        "rule": str(rule),
    }


def calibration_of(point: ChosenPoint) -> Calibration:
    """Return the calibration of an operating point."""
    return Calibration(point["temperature"], point["offset"])


def predictions_table(logits: pd.DataFrame, point: ChosenPoint) -> pd.DataFrame:
    """Compute each patch's calibrated probability, decision, and `uncalibrated` probability (not kept in files)."""
    probability = calibration_of(point).apply(logits["logit"].to_numpy())
    table = logits.drop(columns="logit").assign(uncalibrated=expit(logits["logit"].to_numpy()))
    table.insert(4, "probability", probability)
    table.insert(5, "decision", decide(probability, point["threshold"]))
    return table


def before_calibration(table: pd.DataFrame) -> Predictions:
    """Return the predictions of the test split with uncalibrated probabilities.

    Args:
        table: the result of `predictions_table`.
    """
    test = table[table["split"] == "test"]
    return Predictions.from_arrays(test["label"], test["uncalibrated"], test["decision"], counted_cases(test))


def read_predictions(path: Path) -> pd.DataFrame:
    """Read a `predictions.parquet`.

    Raises:
        EvaluationError: the file can't be read, lacks a column, or holds an invalid value.
    """
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as problem:
        fault = f"can't be read ({' '.join(str(problem).split())})"
    else:
        fault = _fault(table)
    if fault:
        raise EvaluationError(f"{path} {fault}: {restore_command(path)} or evaluate again")
    return table


def _fault(table: pd.DataFrame) -> str:
    """Describe the first fault of a table of predictions; empty if there is none."""
    lacking = [name for name in PREDICTED if name not in table]
    if lacking:
        return f"has no column {lacking[0]}"
    for name in ("label", "decision"):
        if not table[name].isin([0, 1]).all():
            return f"holds values of {name} other than 0 and 1"
    odd = ~pd.to_numeric(table["probability"], errors="coerce").between(0, 1)
    if odd.any():
        invalid = "probability" if odd.sum() == 1 else "probabilities"
        return f"holds {int(odd.sum()):,} invalid {invalid} (first: {table['file'][odd].iloc[0]})"
    nameless = table["case_id"].isna()
    return f"holds {int(nameless.sum()):,} patches without a case" if nameless.any() else ""


def predictions_of(table: pd.DataFrame, split: str) -> Predictions:
    """Return the predictions of one split in the form that the metrics need."""
    part = table[table["split"] == split]
    return Predictions.from_arrays(part["label"], part["probability"], part["decision"], counted_cases(part))


def evaluate_predictions(
    table: pd.DataFrame, point: EvaluatedPoint, training: CopiedTrainingFields, params: Params
) -> MetricsRecord:
    """Evaluate predictions; return the content of `metrics.json` without the id of the MLflow run.

    Args:
        table: the result of `predictions_table`.
        point: the operating point.
        training: the training's record; for a comparison's row without a training, the fields copied from other rows.
        params: number of resamples and seed.
    """
    test, validation = predictions_of(table, "test"), predictions_of(table, "validation")
    return {
        "test": estimate_metrics(test, params.evaluate.resamples, params.seed),
        "cautions": cautions(test),
        "uncalibrated": estimate_metrics(
            before_calibration(table), params.evaluate.resamples, params.seed, probability_metrics
        ),
        "within": within_kinds(table[table["split"] == "test"], params.evaluate.resamples, params.seed),
        "validation": {name: _none_if_nan(value) for name, value in compute_metrics(validation).items()},
        "threshold": point["threshold"],
        "temperature": point["temperature"],
        "offset": point["offset"],
        "rule": point["rule"],
        "positive_class": point["positive_class"],
        "cases": test.case_count,
        "patches": len(test.labels),
        "validation_cases": validation.case_count,
        "validation_patches": len(validation.labels),
        "split_digest": training.get("split_digest"),
        "recipe_digest": training.get("recipe_digest"),
        "quick": training.get("quick"),
        "leaky": training.get("leaky"),
        "unlisted_train": training.get("unlisted_train"),
    }


def _none_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else value
