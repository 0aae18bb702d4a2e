"""From logits to graded predictions: what `evaluate` does, and what is repeated for combinations of models."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pandas as pd

from histopipe.evaluation.calibration import Calibration, fit_calibration
from histopipe.evaluation.intervals import grade
from histopipe.evaluation.metrics import Predictions, measure
from histopipe.evaluation.thresholds import choose_threshold, decide
from histopipe.params import Params, ThresholdRule


def locked_point(logits: pd.DataFrame, rule: ThresholdRule) -> dict[str, Any]:
    """Calibration and threshold that validation chooses: `temperature`, `offset`, `threshold` and `rule`.

    Args:
        logits: columns `split`, `label` and `logit`.
        rule: by which the threshold is chosen.
    """
    validation = logits[logits["split"] == "validation"]
    labels, values = validation["label"].to_numpy(), validation["logit"].to_numpy()
    calibration = fit_calibration(values, labels)
    return {
        **calibration._asdict(),
        "threshold": choose_threshold(rule, labels, calibration.apply(values)),
        "rule": str(rule),
    }


def calibration_of(point: dict[str, Any]) -> Calibration:
    """The calibration that an operating point holds."""
    return Calibration(point["temperature"], point["offset"])


def graded_table(logits: pd.DataFrame, point: dict[str, Any]) -> pd.DataFrame:
    """Calibrated probability and decision of each patch."""
    probability = calibration_of(point).apply(logits["logit"].to_numpy())
    table = logits.drop(columns="logit")
    table.insert(4, "probability", probability)
    table.insert(5, "decision", decide(probability, point["threshold"]))
    return table


def predictions_of(table: pd.DataFrame, split: str) -> Predictions:
    """The patches of one split, as the metrics take them."""
    part = table[table["split"] == split]
    return Predictions.of(part["label"], part["probability"], part["decision"], part["case_id"])


def grade_table(table: pd.DataFrame, point: dict[str, Any], record: dict[str, Any], params: Params) -> dict[str, Any]:
    """Content of `metrics.json`, but for the id of the run that will hold it."""
    test, validation = predictions_of(table, "test"), predictions_of(table, "validation")
    before = replace(test, probabilities=calibration_of(point).undone(test.probabilities))
    uncalibrated = grade(before, params.evaluate.resamples, params.seed)
    return {
        "test": grade(test, params.evaluate.resamples, params.seed),
        "uncalibrated": {name: uncalibrated[name] for name in ("brier", "calibration_error")},
        "validation": {name: _defined(value) for name, value in measure(validation).items()},
        "threshold": point["threshold"],
        "temperature": point["temperature"],
        "offset": point["offset"],
        "rule": point["rule"],
        "positive_class": point["positive_class"],
        "cases": test.case_count,
        "patches": len(test.labels),
        "validation_cases": validation.case_count,
        "validation_patches": len(validation.labels),
        **{name: record.get(name) for name in ("split_digest", "recipe_digest", "quick", "leaky")},
    }


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else value
