"""Contributions of single cases to the difference between two models' metrics.

ROC AUC. Each model's probabilities are replaced by their ranks among the patches. A case's part is how much higher the
first model ranks its positive patches among the negative ones of both models, and how much lower it ranks its negative
patches among the positive ones of both. Exchanging the two models' ranks in some cases changes the sign of the parts of
those cases, and the parts add up to the difference: Venkatraman & Begg 1996 (doi:10.1093/biomet/83.4.835), by case.

Any other metric. Leaving out a case shifts the metric by the case's deviation from the rest, divided by the share that
is left (the jackknife, Efron & Stein 1981, doi:10.1214/aos/1176345462). Multiplied by that share, the shift is the
case's own deviation. The deviation and the case's share of the metric's value add up to the case's part. For a share of
patches, such as sensitivity, the part is the number of the case's hits over the number of all patches.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from histopipe.core.cases.labels import holds_both_classes
from histopipe.evaluation.intervals import informative_cases, leave_one_out
from histopipe.evaluation.metrics import (
    METRICS,
    Codes,
    Numbers,
    Predictions,
    compute_metrics,
    compute_metrics_of_resamples,
)


class CaseParts(NamedTuple):
    """A metric, or a difference of two metrics, divided among the cases.

    Attributes:
        value: the value on all patches; NaN where it isn't defined.
        parts: the contribution of each case, (cases,); their sum is `value`.
        weights: each case's share of the patches that the metric uses, (cases,); their sum is 1. A single weight of 1
            means that the parts are unknown, for instance because the metric isn't defined without one of the cases.
        shifts: the change of the value when each case is left out, (cases,), scaled so that the root of the sum of
            squares is the jackknife's standard error.
        freedom: degrees of freedom of that error: the effective number of informative cases, minus one.
    """

    value: float
    parts: Numbers
    weights: Numbers
    shifts: Numbers
    freedom: float

    def minus(self, other: CaseParts) -> CaseParts:
        """Subtract the same metric of another model on the same cases."""
        value = self.value - other.value
        if not np.array_equal(self.weights, other.weights):
            return unknown_parts(value, len(self.parts))
        freedom = min(self.freedom, other.freedom)
        return CaseParts(value, self.parts - other.parts, self.weights, self.shifts - other.shifts, freedom)


class CaseMetrics:
    """A model's metrics, prepared for a comparison with another model's case by case.

    Args:
        predictions: the model's predictions.
        metrics: names of the metrics to compare.
    """

    def __init__(self, predictions: Predictions, metrics: Collection[str] = METRICS) -> None:
        self._predictions, self._metrics = predictions, tuple(metrics)
        self._ranks = rankdata(predictions.probabilities) if "roc_auc" in metrics else None
        self._parts = _left_out(predictions) if set(metrics) - {"roc_auc"} else {}
        self._shifts = _area_shifts(predictions) if "roc_auc" in metrics else np.empty(0)

    def minus(self, other: CaseMetrics) -> dict[str, CaseParts]:
        """Subtract the metrics of another model, which predicted the same patches in the same order."""
        return {name: self._difference(other, name) for name in self._metrics}

    def _difference(self, other: CaseMetrics, name: str) -> CaseParts:
        if self._ranks is not None and other._ranks is not None and name == "roc_auc":
            return _area_difference(self._predictions, self._ranks, other._ranks, self._shifts - other._shifts)
        return self._parts[name].minus(other._parts[name])


def area_difference(first: Predictions, second: Predictions) -> CaseParts:
    """Return the first model's ROC AUC minus the second's, on the same patches in the same order.

    Example:
        >>> good = Predictions.from_arrays([0, 1, 0, 1], [0.1, 0.9, 0.2, 0.8], [0, 1, 0, 1], ["a", "a", "b", "b"])
        >>> bad = Predictions.from_arrays([0, 1, 0, 1], [0.9, 0.1, 0.8, 0.2], [1, 0, 1, 0], ["a", "a", "b", "b"])
        >>> area_difference(good, bad).value
        1.0
    """
    return CaseMetrics(first, ("roc_auc",)).minus(CaseMetrics(second, ("roc_auc",)))["roc_auc"]


def unknown_parts(value: float, cases: int) -> CaseParts:
    """Return the parts of a value that can't be divided among the cases."""
    weights = np.zeros(cases)
    weights[0] = 1.0
    return CaseParts(value, value * weights, weights, np.zeros(cases), 0.0)


def mean_parts(values: Numbers, cases: Codes, case_count: int) -> CaseParts:
    """Divide a mean over patches among the cases.

    Args:
        values: one number per patch, (patches,).
        cases: the case of each patch, numbered from 0, (patches,).
        case_count: number of cases.
    """
    parts = np.bincount(cases, values, case_count) / len(values)
    value, weights = float(parts.sum()), np.bincount(cases, minlength=case_count) / len(values)
    if weights.max() == 1.0:
        return unknown_parts(value, case_count)
    shifts = _scale_shifts((parts - weights * value) / (1 - weights))
    return CaseParts(value, parts, weights, shifts, 1 / float((weights**2).sum()) - 1)


def mean_over_folds(folds: Sequence[CaseParts]) -> CaseParts:
    """Average a metric over folds with different cases; the result has the parts of all cases."""
    count, value = len(folds), float(np.mean([fold.value for fold in folds]))
    weights = np.concatenate([fold.weights for fold in folds]) / count
    if max(fold.weights.max() for fold in folds) == 1.0:  # one of the folds has an unknown spread
        return unknown_parts(value, len(weights))
    parts, shifts = (
        np.concatenate(columns) / count for columns in zip(*[(f.parts, f.shifts) for f in folds], strict=True)
    )
    return CaseParts(value, parts, weights, shifts, sum(fold.freedom for fold in folds))


def _area_difference(predictions: Predictions, first: Numbers, second: Numbers, shifts: Numbers) -> CaseParts:
    """Divide the difference of two areas among the cases.

    Args:
        predictions: predictions with the labels and cases.
        first: ranks of the patches by the first model, (patches,).
        second: ranks of the patches by the second model, (patches,).
        shifts: change of the difference when each case is left out, (cases,).
    """
    positive = predictions.labels == 1
    shares = [_shares(predictions, which) for which in (positive, ~positive)]
    weights = (shares[0] + shares[1]) / 2
    if not holds_both_classes(predictions.labels):
        return CaseParts(np.nan, np.full(len(weights), np.nan), weights, shifts, 0.0)
    ahead = np.empty(len(positive))
    for which, sign in ((positive, 1.0), (~positive, -1.0)):
        against = np.concatenate([first[~which], second[~which]])
        higher = _share_below(first[which], against) - _share_below(second[which], against)
        ahead[which] = sign * higher / np.count_nonzero(which)
    parts = predictions.per_case(ahead)
    value = float(parts.sum())
    if max(share.max() for share in shares) >= 1:  # one case holds all patches of a class
        return unknown_parts(value, len(weights))
    return CaseParts(value, parts, weights, shifts, informative_cases(predictions)["roc_auc"] - 1)


def _area_shifts(predictions: Predictions) -> Numbers:
    """Compute from ranks how far leaving out each case moves the ROC AUC; NaN where it is undefined on the rest."""
    positive = predictions.labels == 1
    if not holds_both_classes(predictions.labels):
        return np.full(predictions.case_count, np.nan)
    share, other = _shares(predictions, positive), _shares(predictions, ~positive)
    above, below = placements(predictions)
    value, pairs = above.mean(), len(above) * len(below)
    placed = np.empty(len(positive))
    placed[positive], placed[~positive] = above / len(above), below / len(below)
    own = _pairs_within_cases(predictions) / pairs  # counted twice: against the case's positives and its negatives
    change = predictions.per_case(placed) - own - value * (share + other - share * other)
    with np.errstate(divide="ignore", invalid="ignore"):
        return _scale_shifts(change / ((1 - share) * (1 - other)))


def _pairs_within_cases(predictions: Predictions) -> Numbers:
    """Count, per case, its pairs of a positive and a negative patch in the right order, (cases,); ties count half."""
    positive = predictions.labels == 1
    _, rank = np.unique(predictions.probabilities, return_inverse=True)
    key = predictions.cases * (rank.max() + 1) + rank  # sorts by case, then by probability
    negatives = predictions.per_case(~positive)
    before = (np.cumsum(negatives) - negatives)[predictions.cases[positive]]  # negatives of the preceding cases
    right = _share_below(key[positive], key[~positive]) * np.count_nonzero(~positive) - before
    return np.bincount(predictions.cases[positive], right, predictions.case_count).astype(np.float64)


def _scale_shifts(shifts: Numbers) -> Numbers:
    """Scale the changes from leaving out each case as `CaseParts.shifts` describes."""
    count = len(shifts)
    scaled: Numbers = np.sqrt((count - 1) / count) * (shifts - shifts.mean())
    return scaled


def placements(predictions: Predictions) -> tuple[Numbers, Numbers]:
    """Return, for each positive, the share of negatives below it, and for each negative, of positives above it.

    Ties count half.
    """
    positive = predictions.labels == 1
    above, below = predictions.probabilities[positive], predictions.probabilities[~positive]
    return _share_below(above, below), 1 - _share_below(below, above)


def _share_below(values: Numbers, others: Numbers) -> Numbers:
    """Return the share of `others` below each value; equal ones count half."""
    ordered = np.sort(others)
    ranks = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    return ranks / (2.0 * len(ordered))


def _left_out(predictions: Predictions) -> dict[str, CaseParts]:
    """Divide all metrics but the ROC AUC among the cases, by leaving out each case."""
    values = compute_metrics(predictions)
    left_out = compute_metrics_of_resamples(predictions, leave_one_out(predictions.case_count))
    positives, negatives = (_shares(predictions, predictions.labels == label) for label in (1, 0))
    patches = _shares(predictions, predictions.labels >= 0)
    weights = dict.fromkeys(METRICS, patches) | {"sensitivity": positives, "specificity": negatives}
    left = {name: 1 - weight for name, weight in weights.items()}
    left["average_precision"] = (1 - positives) * (1 - negatives)
    weights["average_precision"] = (positives + negatives) / 2
    informative = informative_cases(predictions)
    parts = {
        name: _parts(values[name], values[name] - left_out[name], left[name], weights[name], informative[name] - 1)
        for name in METRICS
        if name not in ("roc_auc", "balanced_accuracy")
    }
    return parts | {"balanced_accuracy": _mean_of_two(parts["sensitivity"], parts["specificity"])}


def _mean_of_two(first: CaseParts, second: CaseParts) -> CaseParts:
    """Average two metrics of the same cases."""
    value = (first.value + second.value) / 2
    if max(first.weights.max(), second.weights.max()) == 1.0:
        return unknown_parts(value, len(first.parts))
    parts, weights, shifts = ((a + b) / 2 for a, b in zip(first[1:4], second[1:4], strict=True))
    return CaseParts(value, parts, weights, shifts, min(first.freedom, second.freedom))


def _parts(value: float, shifts: Numbers, left: Numbers, weights: Numbers, freedom: float) -> CaseParts:
    """Add each case's share of the value and its own deviation; the deviations are shifted to a sum of 0.

    Args:
        value: value of a metric on all patches.
        shifts: that value minus the value without each case, (cases,).
        left: share of the patches that is left without each case, (cases,).
        weights, freedom: as in `CaseParts`.
    """
    if not np.isfinite(shifts).all() or weights.max() == 1.0:
        return unknown_parts(value, len(weights))
    own = left * shifts
    return CaseParts(value, weights * (value - own.sum()) + own, weights, _scale_shifts(shifts), freedom)


def _shares(predictions: Predictions, which: NDArray[np.bool_]) -> Numbers:
    """Return each case's share of the patches that `which` selects, (cases,); 0 if it selects none."""
    counts = predictions.per_case(which)
    return counts / max(1.0, counts.sum())
