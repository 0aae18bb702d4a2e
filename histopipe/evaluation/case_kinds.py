"""Metrics within cases of one kind, beside those of all cases: what is left once the kind of case tells nothing.

Where some cases hold patches of one class only, as the blood films of healthy donors, a model may tell the case instead
of the patch: by the stain, the camera, the day. Between a healthy donor's cells and an infected one's that looks like
skill at telling cells ("hidden stratification", Oakden-Rayner et al. 2020, doi:10.1145/3368555.3384468). Within the
cases that hold positives, or both classes, it helps less or not at all.
"""

from __future__ import annotations

import pandas as pd

from histopipe.evaluation.cases import counted_cases
from histopipe.evaluation.intervals import Estimate, estimate_metrics
from histopipe.evaluation.metrics import Predictions
from histopipe.evaluation.record import KindRecord, MetricsRecord

POSITIVE_CASES, MIXED_CASES = "positive_cases", "mixed_cases"
KIND_TITLES = {POSITIVE_CASES: "cases that hold positives", MIXED_CASES: "cases of both classes"}
KIND_METRICS = ("roc_auc", "accuracy")  # what stands beside the metrics of all cases
ALL_POSITIVE = "every test case holds positives, so the metrics of all cases are those within such cases"
NONE_MIXED = "undefined: no test case holds both classes, so to tell patches and to tell cases is the same here"
NONE_PURE = "no test case holds positives alone, so these are the metrics within cases that hold positives"


def within_kinds(table: pd.DataFrame, resamples: int, seed: int) -> dict[str, KindRecord]:
    """Grade the patches of the cases that hold a positive patch, and of those that hold both classes.

    Args:
        table: the test patches, with `label`, `probability`, `decision` and `case_id`.
        resamples: of cases behind each interval.
        seed: decides which cases they draw.

    Returns:
        For `positive_cases` and `mixed_cases`: the `cases`, `patches` and `positives` of that kind, and `test`, every
        metric with its interval. Where those would be undefined or would only repeat others, `test` is None and the
        `reason` says which.
    """
    labels = table.groupby(counted_cases(table))["label"]
    positive = (labels.transform("max") == 1).to_numpy()
    mixed = positive & (labels.transform("min") == 0).to_numpy()
    reasons = {
        POSITIVE_CASES: NONE_MIXED if not mixed.any() else ALL_POSITIVE if positive.all() else None,
        MIXED_CASES: NONE_MIXED if not mixed.any() else NONE_PURE if (mixed == positive).all() else None,
    }
    inside = {POSITIVE_CASES: positive, MIXED_CASES: mixed}
    return {kind: _graded(table[inside[kind]], reason, resamples, seed) for kind, reason in reasons.items()}


def _graded(part: pd.DataFrame, reason: str | None, resamples: int, seed: int) -> KindRecord:
    predictions = Predictions.of(part["label"], part["probability"], part["decision"], counted_cases(part))
    return {
        "cases": predictions.case_count,
        "patches": len(part),
        "positives": int(part["label"].sum()),
        "test": None if reason else estimate_metrics(predictions, resamples, seed),
        "reason": reason,
    }


def evaluated_kinds(results: MetricsRecord) -> list[tuple[str, KindRecord, dict[str, Estimate]]]:
    """List the kinds of case whose metrics say more than those of all cases; none of evaluations before there were any.

    Args:
        results: content of `metrics.json`, or a row of a comparison.

    Returns:
        Each kind with its part of the results and the metrics in that.
    """
    parts = (results.get("within") or {}).items()
    return [(kind, part, metrics) for kind, part in parts if (metrics := part["test"]) is not None]


def missing_kinds_reason(results: MetricsRecord) -> str | None:
    """Return why the cases that hold positives have no metrics of their own; None of earlier evaluations.

    Args:
        results: content of `metrics.json`, or a row of a comparison.
    """
    part = (results.get("within") or {}).get(POSITIVE_CASES)
    return part["reason"] if part else None
