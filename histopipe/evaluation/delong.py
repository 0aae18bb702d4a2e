"""A test of two areas under the ROC curve on the same patches, without resampling.

DeLong, DeLong & Clarke-Pearson 1988 (Biometrics 44:837) write the area as a mean over patches and derive its variance
from that, for independent patches. Obuchowski 1997 ("Nonparametric analysis of clustered ROC curve data", Biometrics
53:567) first sums the same components over each case, as patches of slides require; with one patch per case the two
methods are the same. The test needs many cases: with 10 it rejects a true null hypothesis one time in ten instead of
one in twenty, and more often still with one large case among few (docs/evaluation.md). `is_applicable` checks for that.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats

from histopipe.evaluation.case_parts import placements
from histopipe.evaluation.differences import NO_SPREAD
from histopipe.evaluation.intervals import informative_cases
from histopipe.evaluation.metrics import Codes, Numbers, Predictions

LEAST_CASES = 50  # with patches of each class
LEAST_EQUAL_CASES = 25  # effective number of cases


class AreaDifference(NamedTuple):
    """A difference of two areas, its standard error, and its two-sided p-value by the normal distribution."""

    value: float
    error: float
    p: float


def is_applicable(predictions: Predictions) -> bool:
    """Return whether each class has enough cases for the normal approximation."""
    counts = [predictions.per_case(predictions.labels == label) for label in (0, 1)]
    many = min(np.count_nonzero(count) for count in counts) >= LEAST_CASES
    return bool(many and informative_cases(predictions)["roc_auc"] >= LEAST_EQUAL_CASES)


def clustered_delong(first: Predictions, second: Predictions) -> AreaDifference | None:
    """Compare the areas of two models: that of the first minus that of the second.

    Args:
        first, second: predictions of the same patches in the same order.

    Returns:
        The difference; None if it has no variance, because all cases agree or fewer than two hold one of the classes.
    """
    positive = first.labels == 1
    case_of = (first.cases[positive], first.cases[~positive])
    if min(len(np.unique(cases)) for cases in case_of) < 2:
        return None
    placed = placements(first), placements(second)
    value = placed[0][0].mean() - placed[1][0].mean()
    positives, negatives = (
        np.bincount(cases, a - b - value, first.case_count).astype(np.float64)
        for cases, a, b in zip(case_of, *placed, strict=True)
    )
    error = float(np.sqrt(max(0.0, _variance(positives, negatives, case_of, first.case_count))))
    if error < NO_SPREAD and value != 0:
        return None
    p = float(2 * stats.norm.sf(abs(value) / error)) if error >= NO_SPREAD else 1.0
    return AreaDifference(float(value), error, p)


def _variance(positives: Numbers, negatives: Numbers, case_of: tuple[Codes, Codes], cases: int) -> float:
    """Compute the variance of the difference from each case's sums of centred components (Obuchowski 1997, section 2).

    Args:
        positives, negatives: the sums, (cases,); 0 for a case without such patches.
        case_of: the case of each positive and of each negative patch.
        cases: number of cases.
    """
    m, n = map(len, case_of)
    return (
        _spread(positives, positives, len(np.unique(case_of[0]))) / m**2
        + _spread(negatives, negatives, len(np.unique(case_of[1]))) / n**2
        + 2 * _spread(positives, negatives, cases) / (m * n)
    )


def _spread(first: Numbers, second: Numbers, cases: int) -> float:
    return float(first @ second) * cases / (cases - 1)
