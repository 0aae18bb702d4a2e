"""Compute the metrics of an evaluation for many resamples of cases at once.

A resample draws whole cases with replacement, so it is described by how often each case was drawn. Every metric is
therefore weighted, and the weight of a patch is the number of times that its case was drawn. Sensitivity is the recall
of the positive class (label 1), specificity that of the negative class.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from threadpoolctl import ThreadpoolController

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
RESAMPLES_AT_ONCE, STEPS_AT_ONCE = 256, 64  # 128 kB per array: several fit into a core's cache
Numbers = NDArray[np.float64]
Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Predictions:
    """Predictions of labelled patches, as arrays of equal length.

    Attributes:
        labels: 1 for the positive class, else 0.
        probabilities: probability of the positive class, 0 to 1.
        decisions: 1 if the patch is called positive, else 0.
        cases: number of each patch's case, 0 to `case_count` - 1.
        case_count: number of cases.

    Example:
        >>> Predictions.from_arrays([0, 1], [0.2, 0.7], [0, 1], ["case-2", "case-1"]).cases.tolist()
        [1, 0]
    """

    labels: Codes
    probabilities: Numbers
    decisions: Codes
    cases: Codes
    case_count: int

    @classmethod
    def from_arrays(
        cls, labels: ArrayLike, probabilities: ArrayLike, decisions: ArrayLike, case_ids: ArrayLike
    ) -> Predictions:
        """Create predictions from case ids; cases are numbered in the order of ids, whatever the order of patches."""
        names, cases = np.unique(np.asarray(case_ids, dtype=str), return_inverse=True)
        return cls(
            np.asarray(labels, np.int64),
            np.asarray(probabilities, np.float64),
            np.asarray(decisions, np.int64),
            cases.astype(np.int64),
            len(names),
        )

    def per_case(self, values: ArrayLike) -> Numbers:
        """Sum `values`, one per patch, over the patches of each case; returns (cases,)."""
        return np.bincount(self.cases, np.asarray(values, np.float64), self.case_count).astype(np.float64)


def compute_metrics(predictions: Predictions) -> dict[str, float]:
    """Compute every metric on all patches; NaN if undefined, such as precision if nothing is called positive.

    Example:
        >>> predictions = Predictions.from_arrays([0, 1, 0, 1], [0.1, 0.9, 0.6, 0.8], [0, 1, 1, 1], list("aabb"))
        >>> compute_metrics(predictions)["roc_auc"]
        1.0
    """
    once = np.ones((1, predictions.case_count))
    return {name: float(values[0]) for name, values in compute_metrics_of_resamples(predictions, once).items()}


def compute_metrics_of_resamples(predictions: Predictions, multiplicities: Numbers) -> dict[str, Numbers]:
    """Compute every metric on every resample.

    Args:
        predictions: predictions of patches from a number of cases.
        multiplicities: how often each resample drew each case, (resamples, cases).

    Returns:
        Values per metric, (resamples,); NaN where a metric is undefined on a resample.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        values = {
            **_ranking_metrics(predictions, multiplicities),
            **_decision_metrics(predictions, multiplicities),
            **probability_metrics(predictions, multiplicities),
        }
    return {name: values[name] for name in METRICS}


def _decision_metrics(predictions: Predictions, multiplicities: Numbers) -> dict[str, Numbers]:
    """Compute the metrics of the confusion matrix from its four counts per case."""
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
    """Compute the Brier score and the expected calibration error on every resample.

    The calibration error is the mean over patches of the difference between mean probability and share of positives in
    their bin. Arguments as for `compute_metrics_of_resamples`.
    """
    squares = predictions.per_case((predictions.probabilities - predictions.labels) ** 2)
    return {
        "brier": multiplicities @ squares / _patches(predictions, multiplicities),
        "calibration_error": np.abs(calibration_gaps(predictions, multiplicities)).sum(axis=1),
    }


def calibration_gaps(predictions: Predictions, multiplicities: Numbers) -> Numbers:
    """Compute the signed contribution of each bin to the calibration error: (resamples, bins).

    It is above 0 where probabilities are too high. Arguments as for `compute_metrics_of_resamples`.
    """
    cell = predictions.cases * CALIBRATION_BINS + calibration_bins(predictions.probabilities)
    size = predictions.case_count * CALIBRATION_BINS
    gaps = np.bincount(cell, predictions.probabilities - predictions.labels, size)
    patches = _patches(predictions, multiplicities)
    summed: Numbers = multiplicities @ gaps.reshape(predictions.case_count, CALIBRATION_BINS)
    return summed / patches[:, np.newaxis]


def _patches(predictions: Predictions, multiplicities: Numbers) -> Numbers:
    """Count the patches of each resample, (resamples,)."""
    patches: Numbers = multiplicities @ predictions.per_case(np.ones(len(predictions.labels)))
    return patches


def calibration_bins(probabilities: Numbers) -> Codes:
    """Return the number of each probability's bin: bin k holds [k/15, (k+1)/15), the last one also 1."""
    return np.minimum((probabilities * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)


class _Steps(NamedTuple):
    """Steps of a curve that contain positives, in falling order of probability; other steps add nothing to an area.

    Patches of equal probability are one step. Each attribute counts patches by step and case, sparse (steps, cases).

    Attributes:
        called: patches from the previous step (exclusive) to this step (inclusive).
        level: patches of this step.
        positives: positive patches of this step.
    """

    called: sparse.csr_array
    level: sparse.csr_array
    positives: sparse.csr_array


def _ranking_metrics(predictions: Predictions, multiplicities: Numbers) -> dict[str, Numbers]:
    """Compute ROC AUC and average precision on each resample.

    Pairs of equal probability count half for the AUC (Mann-Whitney), and share one threshold for average precision,
    which isn't interpolated. Patches are sorted once, since resamples change their weights and not their order.
    """
    positives = multiplicities @ predictions.per_case(predictions.labels)
    negatives = multiplicities @ predictions.per_case(1 - predictions.labels)
    blocks = list(_blocks(predictions))
    sums = np.empty((2, len(multiplicities)))
    # Products of 64 rows are too small for threads: on a busy machine two threads took 25 times as long as one.
    with _linear_algebra().limit(limits=1, user_api="blas"):
        for start in range(0, len(multiplicities), RESAMPLES_AT_ONCE):
            chunk = slice(start, start + RESAMPLES_AT_ONCE)
            sums[:, chunk] = _sums(blocks, np.ascontiguousarray(multiplicities[chunk].T))
    return {"roc_auc": 1 - sums[0] / (positives * negatives), "average_precision": sums[1] / positives}


@lru_cache(maxsize=1)
def _linear_algebra() -> ThreadpoolController:
    """Return the controller of BLAS threads, which is created once because there may be thousands of calls."""
    return ThreadpoolController()


def _blocks(predictions: Predictions) -> Iterator[_Steps]:
    """Yield the steps in blocks that are small enough for a core's cache."""
    order = np.argsort(-predictions.probabilities, kind="stable")
    labels, cases = predictions.labels[order], predictions.cases[order]
    step = np.cumsum(np.diff(predictions.probabilities[order], prepend=2.0) < 0) - 1
    rising = np.bincount(step, labels) > 0
    number: Codes = (np.cumsum(rising) - rising)[step]  # of the first rising step that isn't above the patch
    shape = (int(rising.sum()), predictions.case_count)
    counts = [
        sparse.coo_array((np.ones(len(rows)), (number[rows], cases[rows])), shape).tocsr()
        for rows in map(np.flatnonzero, (number < shape[0], rising[step], labels == 1))
    ]
    for start in range(0, shape[0], STEPS_AT_ONCE):
        yield _Steps(*(table[start : start + STEPS_AT_ONCE] for table in counts))


def _sums(blocks: Sequence[_Steps], drawn: Numbers) -> Numbers:
    """Sum the false alarms above each positive, and the precision at it, over the positives: (2, resamples).

    Args:
        blocks: all steps.
        drawn: how often each case was drawn, (cases, resamples).
    """
    sums, called_above, hits_above = np.zeros((2, drawn.shape[1])), 0.0, 0.0
    for steps in blocks:
        risen, level = steps.positives @ drawn, steps.level @ drawn
        running = np.tri(len(risen))  # several times as fast as np.cumsum, where each sum waits for the last
        called = running @ (steps.called @ drawn) + called_above
        hits = running @ risen + hits_above
        false_alarms = called - hits - (level - risen) / 2  # those at the level of the positive count half
        precision = np.divide(hits, called, out=np.zeros_like(hits), where=called > 0)
        sums += np.einsum("sr,sr->r", risen, false_alarms), np.einsum("sr,sr->r", risen, precision)
        called_above, hits_above = called[-1], hits[-1]
    return sums
