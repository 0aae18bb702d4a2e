"""How sure one can be of a difference between two models that were graded on the same cases.

Both are measured in the same resamples of cases, so what makes a case hard for both cancels. The interval is
symmetric: the spread of the difference over resamples times a t quantile, for the few cases it rests on. The p-value
turns the same t statistic round, so an interval of 95 % leaves out 0 exactly where p is below .05.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from histopipe.evaluation.intervals import LEVEL, Measured
from histopipe.evaluation.metrics import Numbers

NO_SPREAD = 1e-12  # below it no resample differs but by rounding


def difference(value: float, resampled: Numbers, freedom: float) -> Measured:
    """A difference of two shares with its interval, which ends at -1 and 1, and its p-value.

    Args:
        value: on all patches; NaN where it isn't defined.
        resampled: on each resample; NaN where it isn't defined there.
        freedom: degrees of freedom, the informative cases less one; below 1 nothing is known of the spread.

    Returns:
        `value`, `low`, `high` and the two-sided `p`, each None where the difference isn't defined.
    """
    if np.isnan(value):
        return {"value": None, "low": None, "high": None, "p": None}
    error = _error(resampled[~np.isnan(resampled)], freedom)
    reach = _reach(error, freedom)
    return {
        "value": float(value),
        "low": max(-1.0, value - reach),
        "high": min(1.0, value + reach),
        "p": _p_value(value, error, freedom),
    }


def _error(resampled: Numbers, freedom: float) -> float:
    """Standard error; infinite where nothing is known of it."""
    return float(np.std(resampled, ddof=1)) if freedom >= 1 and len(resampled) > 1 else np.inf


def _reach(error: float, freedom: float) -> float:
    if np.isinf(error):
        return 2.0
    if error < NO_SPREAD:  # as far as a share never seen to miss may be from 1, see `intervals`
        return float(1 - ((1 - LEVEL) / 2) ** (1 / (freedom + 1)))
    return float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error


def _p_value(value: float, error: float, freedom: float) -> float:
    if np.isinf(error) or value == 0.0:
        return 1.0
    if error < NO_SPREAD:  # the level at which the reach above would end at 0
        return float(min(1.0, 2 * (1 - min(1.0, abs(value))) ** (freedom + 1)))
    return float(2 * stats.t.sf(abs(value) / error, freedom))


def holm(p_values: ArrayLike) -> Numbers:
    """P-values corrected for how many there are (Holm 1979, "A simple sequentially rejective multiple test procedure").

    Controls the chance of a single false finding among all, whatever the tests have to do with each other.
    """
    found = np.asarray(p_values, np.float64)
    order = np.argsort(found, kind="stable")
    corrected = np.empty_like(found)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(found[order] * np.arange(len(found), 0, -1)))
    return corrected


def rank_ranges(count: int, better: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The ranks that each of `count` models may have, given which is separably better than which.

    Args:
        count: how many models there are.
        better: places of (better, worse).

    Returns:
        First and last rank of each, counted from 1: behind all that beat it, before all that it beats.
    """
    beaten_by, beats = [0] * count, [0] * count
    for winner, loser in better:
        beats[winner] += 1
        beaten_by[loser] += 1
    return [(1 + above, count - below) for above, below in zip(beaten_by, beats, strict=True)]
