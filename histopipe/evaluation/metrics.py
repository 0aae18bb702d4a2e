"""The fixed metrics, for many resamples of cases at once.

A resample draws whole cases with replacement, so it is described by how often each case was drawn. Every
metric is therefore a weighted one, where a patch weighs as much as its case was drawn. Sensitivity is the
recall of the positive class (label 1), specificity that of the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

METRICS = (
    "roc_auc",
    "average_precision",
    "balanced_accuracy",
    "f1",
    "sensitivity",
    "specificity",
    "accuracy",
    "precision",
    "brier",
    "calibration_error",
)
CALIBRATION_BINS = 15  # equal widths, as in Guo et al. 2017, "On calibration of modern neural networks"
CHUNK_ELEMENTS = 2**18  # resamples x patches held at once: 2 MB per array, about what a core's cache holds

Numbers = NDArray[np.float64]
Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Predictions:
    """Graded patches, as arrays of one length.

    Attributes:
        labels: 1 for the positive class, else 0.
        probabilities: of the positive class, 0 to 1.
        decisions: 1 where the patch is called positive, else 0.
        cases: number of each patch's case, 0 to `case_count` - 1.
        case_count: how many cases there are.
    """

    labels: Codes
    probabilities: Numbers
    decisions: Codes
    cases: Codes
    case_count: int

    @classmethod
    def of(cls, labels: ArrayLike, probabilities: ArrayLike, decisions: ArrayLike, case_ids: ArrayLike) -> Predictions:
        """Number the cases in the order of their ids, so that the order of the patches doesn't matter."""
        names, cases = np.unique(np.asarray(case_ids, dtype=str), return_inverse=True)
        return cls(
            np.asarray(labels, np.int64),
            np.asarray(probabilities, np.float64),
            np.asarray(decisions, np.int64),
            cases.astype(np.int64),
            len(names),
        )

    def per_case(self, values: ArrayLike) -> Numbers:
        """Sum `values`, one per patch, over each case: (cases,)."""
        return np.bincount(self.cases, np.asarray(values, np.float64), self.case_count).astype(np.float64)


def measure(predictions: Predictions) -> dict[str, float]:
    """Every metric on all patches; NaN where undefined, as precision is where nothing is called positive."""
    once = np.ones((1, predictions.case_count))
    return {name: float(values[0]) for name, values in measure_resamples(predictions, once).items()}


def measure_resamples(predictions: Predictions, multiplicities: Numbers) -> dict[str, Numbers]:
    """Every metric on every resample.

    Args:
        predictions: of `patches` patches from `cases` cases.
        multiplicities: how often each resample drew each case, (resamples, cases).

    Returns:
        Values per metric, (resamples,); NaN where a resample leaves a metric undefined.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        found = {
            **_ranking_metrics(predictions, multiplicities),
            **_decision_metrics(predictions, multiplicities),
            **probability_metrics(predictions, multiplicities),
        }
    return {name: found[name] for name in METRICS}


def _decision_metrics(predictions: Predictions, multiplicities: Numbers) -> dict[str, Numbers]:
    """Metrics of the confusion matrix: its four counts per case are all they need."""
    label, decision = predictions.labels == 1, predictions.decisions == 1
    cells = (label & decision, label & ~decision, ~label & decision, ~label & ~decision)
    counts = np.stack([predictions.per_case(cell) for cell in cells], axis=1)
    hits, misses, false_alarms, rejections = (multiplicities @ counts).T
    sensitivity = hits / (hits + misses)
    specificity = rejections / (rejections + false_alarms)
    return {
        "sensitivity": sensitivity,
        "specificity": specificity,
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "precision": hits / (hits + false_alarms),
        "f1": 2 * hits / (2 * hits + misses + false_alarms),
        "accuracy": (hits + rejections) / (hits + misses + false_alarms + rejections),
    }


def probability_metrics(predictions: Predictions, multiplicities: Numbers) -> dict[str, Numbers]:
    """Brier score; expected calibration error: mean over patches of their bin's |probability - share|."""
    patches = multiplicities @ predictions.per_case(np.ones(len(predictions.labels)))
    excess = predictions.probabilities - predictions.labels
    place = predictions.cases * CALIBRATION_BINS + calibration_bins(predictions.probabilities)
    size = predictions.case_count * CALIBRATION_BINS
    gaps = np.bincount(place, excess, size).reshape(predictions.case_count, CALIBRATION_BINS)
    return {
        "brier": multiplicities @ predictions.per_case(excess**2) / patches,
        "calibration_error": np.abs(multiplicities @ gaps).sum(axis=1) / patches,
    }


def calibration_bins(probabilities: Numbers) -> Codes:
    """Number of each probability's bin: bin k holds [k/15, (k+1)/15), the last one also 1."""
    return np.minimum((probabilities * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)


def _ranking_metrics(predictions: Predictions, multiplicities: Numbers) -> dict[str, Numbers]:
    """ROC AUC and average precision from sums over the patches in falling order of probability.

    Patches of equal probability count as one step of the curve: half right for the AUC (Mann-Whitney), one
    threshold for average precision. The sort is done once; a resample changes weights, not the order.
    """
    order = np.argsort(-predictions.probabilities, kind="stable")
    steps = np.flatnonzero(np.diff(predictions.probabilities[order], append=-1.0))
    labels, cases = predictions.labels[order], predictions.cases[order]
    roc_auc, average_precision = np.empty(len(multiplicities)), np.empty(len(multiplicities))
    for chunk in _chunks(len(multiplicities), len(labels)):
        weights = multiplicities[chunk][:, cases]
        called = np.cumsum(weights, axis=1)[:, steps]
        hits = np.cumsum(weights * labels, axis=1)[:, steps]
        risen = np.diff(hits, axis=1, prepend=0.0)
        roc_auc[chunk] = _area_under_roc(hits, risen, called - hits)
        average_precision[chunk] = _average_precision(hits, risen, called)
    return {"roc_auc": roc_auc, "average_precision": average_precision}


def _chunks(resamples: int, patches: int) -> Iterator[slice]:
    step = max(1, CHUNK_ELEMENTS // max(1, patches))
    return (slice(start, start + step) for start in range(0, resamples, step))


def _area_under_roc(hits: Numbers, risen: Numbers, false_alarms: Numbers) -> Numbers:
    """Trapezoids under the curve.

    Args:
        hits: positives up to each step, (resamples, steps).
        risen: positives of each step alone.
        false_alarms: negatives up to each step.
    """
    widths = np.diff(false_alarms, axis=1, prepend=0.0)
    return np.einsum("rs,rs->r", widths, hits - risen / 2) / (hits[:, -1] * false_alarms[:, -1])


def _average_precision(hits: Numbers, risen: Numbers, called: Numbers) -> Numbers:
    """Sum over steps of precision times recall gained, not interpolated; `called`: all patches up to each."""
    precision = np.divide(hits, called, out=np.zeros_like(hits), where=called > 0)
    return np.einsum("rs,rs->r", risen, precision) / hits[:, -1]
