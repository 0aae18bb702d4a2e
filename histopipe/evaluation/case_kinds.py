"""Compute metrics within the cases that hold positives, or both classes, for comparison with those of all cases.

Some cases may hold patches of one class only, such as the blood films of healthy donors. Then a model may recognise
the case instead of the patch: by the stain, the camera or the day. That looks like skill at distinguishing a healthy
donor's cells from an infected donor's ("hidden stratification", Oakden-Rayner et al. 2020,
doi:10.1145/3368555.3384468). Within the cases that hold positives, or both classes, it helps less or not at all.
"""

from __future__ import annotations

import pandas as pd

from histopipe.evaluation.cases import counted_cases
from histopipe.evaluation.intervals import Estimate, estimate_metrics
from histopipe.evaluation.metrics import Predictions
from histopipe.evaluation.record import KindRecord, MetricsRecord

POSITIVE_CASES, MIXED_CASES = "positive_cases", "mixed_cases"
KIND_TITLES = {POSITIVE_CASES: "cases that hold positives", MIXED_CASES: "cases of both classes"}
KIND_METRICS = ("roc_auc", "accuracy")  # the metrics that tables compare with those of all cases
ALL_POSITIVE = "every test case holds positives, so these metrics equal those of all cases"
NONE_MIXED = "undefined: no test case holds both classes, so classifying patches is the same as classifying cases here"
NONE_PURE = "no test case holds only positives, so these metrics equal those within cases that hold positives"


def within_kinds(table: pd.DataFrame, resamples: int, seed: int) -> dict[str, KindRecord]:
    """Evaluate the patches of the cases that hold a positive patch, and of those that hold both classes.

    Args:
        table: the test patches, with `label`, `probability`, `decision` and `case_id`.
        resamples: number of resamples for each interval.
        seed: seed of the resampling.

    Returns:
        For `positive_cases` and `mixed_cases`: the number of `cases`, `patches` and `positives` of that kind, and
        `test`, every metric with its interval. Where the metrics would be undefined or would only repeat others,
        `test` is None and `reason` says why.
    """
    labels = table.groupby(counted_cases(table))["label"]
    positive = (labels.transform("max") == 1).to_numpy()
    mixed = positive & (labels.transform("min") == 0).to_numpy()
    reasons = {
        POSITIVE_CASES: NONE_MIXED if not mixed.any() else ALL_POSITIVE if positive.all() else None,
        MIXED_CASES: NONE_MIXED if not mixed.any() else NONE_PURE if (mixed == positive).all() else None,
    }
    inside = {POSITIVE_CASES: positive, MIXED_CASES: mixed}
    return {kind: _evaluate_part(table[inside[kind]], reason, resamples, seed) for kind, reason in reasons.items()}


def _evaluate_part(part: pd.DataFrame, reason: str | None, resamples: int, seed: int) -> KindRecord:
    predictions = Predictions.from_arrays(part["label"], part["probability"], part["decision"], counted_cases(part))
    return {
        "cases": predictions.case_count,
        "patches": len(part),
        "positives": int(part["label"].sum()),
        "test": None if reason else estimate_metrics(predictions, resamples, seed),
        "reason": reason,
    }


def evaluated_kinds(results: MetricsRecord) -> list[tuple[str, KindRecord, dict[str, Estimate]]]:
    """List the kinds of case that have metrics of their own; an evaluation by an early version has none.

    Args:
        results: content of `metrics.json`, or a row of a comparison.

    Returns:
        Each kind with its part of the results and the metrics in that part.
    """
    parts = (results.get("within") or {}).items()
    return [(kind, part, metrics) for kind, part in parts if (metrics := part["test"]) is not None]


def missing_kinds_reason(results: MetricsRecord) -> str | None:
    """Return why the cases that hold positives have no metrics of their own; None for early versions' evaluations.

    Args:
        results: content of `metrics.json`, or a row of a comparison.
    """
    part = (results.get("within") or {}).get(POSITIVE_CASES)
    return part["reason"] if part else None
