"""What each case adds to the difference between two models' metrics.

ROC AUC. Each model's probabilities are replaced by their ranks among the patches. A case's part is how much higher the
first model places its positive patches among the negative ones of both models, and how much lower its negative ones
among the positive ones of both. Exchanging the two models' ranks in some cases turns round the parts of those cases,
and the parts add up to the difference: Venkatraman & Begg 1996 (doi:10.1093/biomet/83.4.835), case by case.

Any other metric. Leaving a case out moves a metric by what the case holds against the rest, divided by what is left
(the jackknife, Efron & Stein 1981, doi:10.1214/aos/1176345462). Multiplied by what is left, that is the case's own
deviation; with its share of the metric's value it is the case's part. For a share of patches, such as sensitivity, that
is nothing but the case's hits over all patches.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from histopipe.core.cases.labels import holds_both_classes
from histopipe.evaluation.intervals import informative_cases, leave_one_out
from histopipe.evaluation.metrics import METRICS, Codes, Numbers, Predictions, measure, measure_resamples


class CaseParts(NamedTuple):
    """A metric, or a difference of two, divided among the cases.

    Attributes:
        value: on all patches; NaN where it isn't defined.
        parts: of each case, (cases,); their sum is `value`.
        weights: each case's share of the patches that the metric rests on, (cases,); their sum is 1. A single weight of
            1 says that nothing is known of the parts, as where the metric isn't defined without one of the cases.
        moved: how far leaving out each case moves the value, (cases,), scaled so that the root of the sum of squares is
            the jackknife's standard error.
        freedom: degrees of freedom of that error: the informative cases, were they of equal size, less one.
    """

    value: float
    parts: Numbers
    weights: Numbers
    moved: Numbers
    freedom: float

    def minus(self, other: CaseParts) -> CaseParts:
        """This metric less that of another model on the same cases."""
        value = self.value - other.value
        if not np.array_equal(self.weights, other.weights):
            return unknown_parts(value, len(self.parts))
        freedom = min(self.freedom, other.freedom)
        return CaseParts(value, self.parts - other.parts, self.weights, self.moved - other.moved, freedom)


class CaseMetrics:
    """A model's metrics, to be set against another's case by case.

    Args:
        predictions: the graded patches.
        metrics: which.
    """

    def __init__(self, predictions: Predictions, metrics: Collection[str] = METRICS) -> None:
        self._predictions, self._metrics = predictions, tuple(metrics)
        self._ranks = rankdata(predictions.probabilities) if "roc_auc" in metrics else None
        self._parts = _left_out(predictions) if set(metrics) - {"roc_auc"} else {}
        self._moved = _area_moved(predictions) if "roc_auc" in metrics else np.empty(0)

    def minus(self, other: CaseMetrics) -> dict[str, CaseParts]:
        """Each metric less that of another model of the same patches in the same order."""
        return {name: self._difference(other, name) for name in self._metrics}

    def _difference(self, other: CaseMetrics, name: str) -> CaseParts:
        if self._ranks is not None and other._ranks is not None and name == "roc_auc":
            return _area_difference(self._predictions, self._ranks, other._ranks, self._moved - other._moved)
        return self._parts[name].minus(other._parts[name])


def area_difference(first: Predictions, second: Predictions) -> CaseParts:
    """ROC AUC of the first less that of the second, on the same patches in the same order."""
    return CaseMetrics(first, ("roc_auc",)).minus(CaseMetrics(second, ("roc_auc",)))["roc_auc"]


def unknown_parts(value: float, cases: int) -> CaseParts:
    """A value of which nobody knows what each case adds."""
    weights = np.zeros(cases)
    weights[0] = 1.0
    return CaseParts(value, value * weights, weights, np.zeros(cases), 0.0)


def mean_parts(values: Numbers, cases: Codes, case_count: int) -> CaseParts:
    """What each case adds to the mean of `values`, one per patch; `cases` numbers their cases from 0."""
    parts = np.bincount(cases, values, case_count) / len(values)
    value, weights = float(parts.sum()), np.bincount(cases, minlength=case_count) / len(values)
    if weights.max() == 1.0:
        return unknown_parts(value, case_count)
    moved = _as_errors((parts - weights * value) / (1 - weights))
    return CaseParts(value, parts, weights, moved, 1 / float((weights**2).sum()) - 1)


def mean_over_folds(folds: Sequence[CaseParts]) -> CaseParts:
    """The mean over folds, each of cases of its own, with the parts of all their cases."""
    count, value = len(folds), float(np.mean([fold.value for fold in folds]))
    weights = np.concatenate([fold.weights for fold in folds]) / count
    if max(fold.weights.max() for fold in folds) == 1.0:  # one of them tells no spread
        return unknown_parts(value, len(weights))
    parts, moved = (
        np.concatenate(columns) / count for columns in zip(*[(f.parts, f.moved) for f in folds], strict=True)
    )
    return CaseParts(value, parts, weights, moved, sum(fold.freedom for fold in folds))


def _area_difference(predictions: Predictions, one: Numbers, other: Numbers, moved: Numbers) -> CaseParts:
    """Divide the difference of two areas among the cases.

    Args:
        predictions: hold labels and cases.
        one: ranks that the first model gives the patches, (patches,).
        other: those of the second.
        moved: by how much leaving out each case moves the difference, (cases,).
    """
    positive = predictions.labels == 1
    shares = [_shares(predictions, which) for which in (positive, ~positive)]
    weights = (shares[0] + shares[1]) / 2
    if not holds_both_classes(predictions.labels):
        return CaseParts(np.nan, np.full(len(weights), np.nan), weights, moved, 0.0)
    ahead = np.empty(len(positive))
    for which, sign in ((positive, 1.0), (~positive, -1.0)):
        against = np.concatenate([one[~which], other[~which]])
        higher = _share_below(one[which], against) - _share_below(other[which], against)
        ahead[which] = sign * higher / np.count_nonzero(which)
    parts = predictions.per_case(ahead)
    value = float(parts.sum())
    known = max(share.max() for share in shares) < 1
    if not known:
        return unknown_parts(value, len(weights))
    return CaseParts(value, parts, weights, moved, informative_cases(predictions)["roc_auc"] - 1)


def _area_moved(predictions: Predictions) -> Numbers:
    """How far leaving out each case moves the ROC AUC, from the ranks; NaN where it isn't defined then."""
    positive = predictions.labels == 1
    if not holds_both_classes(predictions.labels):
        return np.full(predictions.case_count, np.nan)
    share, other = _shares(predictions, positive), _shares(predictions, ~positive)
    above, below = placements(predictions)
    value, pairs = above.mean(), len(above) * len(below)
    placed = np.empty(len(positive))
    placed[positive], placed[~positive] = above / len(above), below / len(below)
    own = _pairs_of_own(predictions) / pairs  # counted twice: against the case's positives and its negatives
    change = predictions.per_case(placed) - own - value * (share + other - share * other)
    with np.errstate(divide="ignore", invalid="ignore"):
        return _as_errors(change / ((1 - share) * (1 - other)))


def _pairs_of_own(predictions: Predictions) -> Numbers:
    """How many pairs of a positive and a negative patch of one case are in the right order, (cases,); ties half."""
    positive = predictions.labels == 1
    _, rank = np.unique(predictions.probabilities, return_inverse=True)
    place = predictions.cases * (rank.max() + 1) + rank  # sorts by case, then by probability
    held = predictions.per_case(~positive)
    before = (np.cumsum(held) - held)[predictions.cases[positive]]  # negatives of the cases that stand before
    right = _share_below(place[positive], place[~positive]) * np.count_nonzero(~positive) - before
    return np.bincount(predictions.cases[positive], right, predictions.case_count).astype(np.float64)


def _as_errors(shifts: Numbers) -> Numbers:
    """What leaving out each case changes, scaled as in `CaseParts.moved`."""
    count = len(shifts)
    scaled: Numbers = np.sqrt((count - 1) / count) * (shifts - shifts.mean())
    return scaled


def placements(predictions: Predictions) -> tuple[Numbers, Numbers]:
    """Each positive's share of negatives it outranks, and each negative's of positives that outrank it; ties half."""
    positive = predictions.labels == 1
    above, below = predictions.probabilities[positive], predictions.probabilities[~positive]
    return _share_below(above, below), 1 - _share_below(below, above)


def _share_below(values: Numbers, others: Numbers) -> Numbers:
    """Share of `others` below each value; equal ones count half."""
    ordered = np.sort(others)
    ranks = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    return ranks / (2.0 * len(ordered))


def _left_out(predictions: Predictions) -> dict[str, CaseParts]:
    """All metrics but the ROC AUC."""
    values = measure(predictions)
    left_out = measure_resamples(predictions, leave_one_out(predictions.case_count))
    positives, negatives = (_shares(predictions, predictions.labels == label) for label in (1, 0))
    patches = _shares(predictions, predictions.labels >= 0)
    weights = dict.fromkeys(METRICS, patches) | {"sensitivity": positives, "specificity": negatives}
    left = {name: 1 - weight for name, weight in weights.items()}
    left["average_precision"] = (1 - positives) * (1 - negatives)
    weights["average_precision"] = (positives + negatives) / 2
    informative = informative_cases(predictions)
    found = {
        name: _parts(values[name], values[name] - left_out[name], left[name], weights[name], informative[name] - 1)
        for name in METRICS
        if name not in ("roc_auc", "balanced_accuracy")
    }
    return found | {"balanced_accuracy": _mean_of(found["sensitivity"], found["specificity"])}


def _mean_of(one: CaseParts, other: CaseParts) -> CaseParts:
    """The mean of two metrics of the same cases."""
    value = (one.value + other.value) / 2
    if max(one.weights.max(), other.weights.max()) == 1.0:
        return unknown_parts(value, len(one.parts))
    parts, weights, moved = ((a + b) / 2 for a, b in zip(one[1:4], other[1:4], strict=True))
    return CaseParts(value, parts, weights, moved, min(one.freedom, other.freedom))


def _parts(value: float, shifts: Numbers, left: Numbers, weights: Numbers, freedom: float) -> CaseParts:
    """Each case's share of the value and its own deviation, which is made to add up to 0.

    Args:
        value: of a metric.
        shifts: how far it is above what it is without each case, (cases,).
        left: what share of the patches is left then, (cases,).
        weights, freedom: as in `CaseParts`.
    """
    if not np.isfinite(shifts).all() or weights.max() == 1.0:
        return unknown_parts(value, len(weights))
    own = left * shifts
    return CaseParts(value, weights * (value - own.sum()) + own, weights, _as_errors(shifts), freedom)


def _shares(predictions: Predictions, which: NDArray[np.bool_]) -> Numbers:
    """Each case's share of the patches that are `which`, (cases,); 0 where there are none."""
    counts = predictions.per_case(which)
    return counts / max(1.0, counts.sum())
