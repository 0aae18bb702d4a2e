"""Two areas under the ROC curve on the same patches, without resampling.

DeLong, DeLong & Clarke-Pearson 1988 (Biometrics 44:837) write the area as a mean over patches and take its variance
from that. It asks for independent patches. Obuchowski 1997 ("Nonparametric analysis of clustered ROC curve data",
Biometrics 53:567) sums the same components over each case first, which is what holds for patches of slides; with one
patch to a case it is DeLong's. It needs many cases, and serves here as a check on the resampling.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats

from histopipe.evaluation.differences import NO_SPREAD
from histopipe.evaluation.metrics import Codes, Numbers, Predictions


class AreaDifference(NamedTuple):
    """Difference of two areas, its standard error, and the two-sided p-value of the normal law."""

    value: float
    error: float
    p: float


def clustered_delong(first: Predictions, second: Predictions) -> AreaDifference | None:
    """Area of the first less that of the second.

    Args:
        first, second: of the same patches in the same order.

    Returns:
        None where there is no variance: fewer than two cases have patches of one of the classes, or all cases agree.
    """
    positive = first.labels == 1
    case_of = (first.cases[positive], first.cases[~positive])
    if min(len(np.unique(cases)) for cases in case_of) < 2:
        return None
    one, other = _components(first), _components(second)
    value = one[0].mean() - other[0].mean()
    positives, negatives = (
        np.bincount(cases, a - b - value, first.case_count).astype(np.float64)
        for cases, a, b in zip(case_of, one, other, strict=True)
    )
    error = float(np.sqrt(max(0.0, _variance(positives, negatives, case_of, first.case_count))))
    if error < NO_SPREAD and value != 0:
        return None
    p = float(2 * stats.norm.sf(abs(value) / error)) if error >= NO_SPREAD else 1.0
    return AreaDifference(float(value), error, p)


def _components(predictions: Predictions) -> tuple[Numbers, Numbers]:
    """Each positive's share of negatives it outranks, and each negative's of positives that outrank it; ties half."""
    positive = predictions.labels == 1
    above, below = predictions.probabilities[positive], predictions.probabilities[~positive]
    return _share_below(above, below), 1 - _share_below(below, above)


def _share_below(values: Numbers, others: Numbers) -> Numbers:
    ordered = np.sort(others)
    ranks = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    return ranks / (2.0 * len(ordered))


def _variance(positives: Numbers, negatives: Numbers, case_of: tuple[Codes, Codes], cases: int) -> float:
    """Of the difference, from each case's sums of centred components (Obuchowski 1997, section 2).

    Args:
        positives, negatives: the sums, (cases,); 0 for a case without such patches.
        case_of: case of each positive and of each negative patch.
        cases: how many there are.
    """
    m, n = map(len, case_of)
    return (
        _spread(positives, positives, len(np.unique(case_of[0]))) / m**2
        + _spread(negatives, negatives, len(np.unique(case_of[1]))) / n**2
        + 2 * _spread(positives, negatives, cases) / (m * n)
    )


def _spread(one: Numbers, other: Numbers, cases: int) -> float:
    return float(one @ other) * cases / (cases - 1)
