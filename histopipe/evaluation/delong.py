"""Two areas under the ROC curve on the same patches, without resampling.

DeLong, DeLong & Clarke-Pearson 1988 (Biometrics 44:837) write the area as a mean over patches and take its variance
from that. It asks for independent patches. Obuchowski 1997 ("Nonparametric analysis of clustered ROC curve data",
Biometrics 53:567) sums the same components over each case first, which is what holds for patches of slides; with one
patch to a case it is DeLong's. It needs many cases: with 10 it rejects a true null hypothesis one time in ten instead
of twenty, with one large case among few more often still (docs/evaluation.md). `is_applicable` says where to show it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats

from histopipe.evaluation.case_parts import placements
from histopipe.evaluation.differences import NO_SPREAD
from histopipe.evaluation.intervals import informative_cases
from histopipe.evaluation.metrics import Codes, Numbers, Predictions

LEAST_CASES = 50  # that hold patches of either class
LEAST_EQUAL_CASES = 25  # of equal size that tell as much


class AreaDifference(NamedTuple):
    """Difference of two areas, its standard error, and the two-sided p-value of the normal law."""

    value: float
    error: float
    p: float


def is_applicable(predictions: Predictions) -> bool:
    """Whether there are cases enough for the normal law, in either class."""
    counts = [predictions.per_case(predictions.labels == label) for label in (0, 1)]
    many = min(np.count_nonzero(count) for count in counts) >= LEAST_CASES
    return bool(many and informative_cases(predictions)["roc_auc"] >= LEAST_EQUAL_CASES)


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
    one, other = placements(first), placements(second)
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
