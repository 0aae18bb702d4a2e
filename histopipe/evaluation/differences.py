"""Intervals and p-values for differences between two models that were evaluated on the same cases.

If two models are equally good, it is random which of them is better in a case. So the sign of each case's part of the
difference (see `case_parts`) is flipped at random, which corresponds to exchanging the two models' predictions in that
case. The p-value is how often the sum is then at least as far from 0 as the observed one: a randomisation test (Fisher
1935, "The design of experiments"). With up to `LISTED_CASES` cases all combinations of signs are tried; with more,
`LEAST_FLIPS` random ones.

The interval contains the differences that the same test would not reject, where a case of weight w has a part of w
times the difference. Its ends are quantiles of the difference in random subsets of the cases (Hartigan 1969,
doi:10.1080/01621459.1969.10501057), so it excludes 0 exactly where p is below .05. The test is made for a difference of
0. A larger difference shrinks in easy cases, where both models come near 1, and flipping signs doesn't show that. So an
end with 0 inside is at least the jackknife's standard error away, times a t quantile for the effective number of cases
(Kish). With fewer than six cases no test can reach the level, and the interval is [-1, 1].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from histopipe.evaluation.case_parts import CaseParts
from histopipe.evaluation.intervals import LEVEL, Estimate
from histopipe.evaluation.metrics import Numbers

NO_SPREAD = 1e-12  # smaller differences are rounding errors
LISTED_CASES = 15  # up to so many cases, all combinations of signs are tried
LEAST_FLIPS = 2 ** (LISTED_CASES - 1)
FLIPS_AT_ONCE = 2048


def difference(parts: CaseParts, seed: int, level: float = LEVEL) -> Estimate:
    """Estimate a single difference with its interval and p-value, as `Flips.estimates` does for several."""
    return Flips([parts], seed).estimates(level)[0]


class Flips:
    """A randomisation test of any number of differences on the same cases, whose signs are flipped together.

    Args:
        differences: the differences, divided among the cases.
        seed: seed of the random signs, where there are too many combinations to try all of them.
        min_flips: minimum number of random combinations of signs.
    """

    def __init__(self, differences: Sequence[CaseParts], seed: int, min_flips: int = LEAST_FLIPS) -> None:
        self._differences = list(differences)
        columns = [column for parts in differences for column in (parts.parts, parts.weights)]
        flips = max(min_flips, LEAST_FLIPS)
        sums = flipped_sums(np.column_stack(columns), seed, flips) if columns else np.empty((1, 0))
        self._sums, self._weights = sums[:, ::2], sums[:, 1::2]

    def estimates(self, level: float = LEVEL) -> list[Estimate]:
        """Estimate each difference of two shares with its interval, within [-1, 1], and its p-value.

        Args:
            level: confidence level of the interval, such as 0.95.

        Returns:
            `value`, `low`, `high` and the two-sided `p`, each None where the difference isn't defined.
        """
        return [self._estimate(number, level) for number in range(len(self._differences))]

    def corrected_p_values(self) -> Numbers:
        """Return the p-values of all differences, corrected for their number.

        The largest difference is compared with the largest of all sums under the same signs, in units of their spreads;
        the second largest with the largest of the others, and so on (step-down maxT, Westfall & Young 1993,
        "Resampling-based multiple testing", algorithm 2.8). Correlated differences are not penalised twice, as they are
        by Holm's correction. The p-value of an undefined difference is 1.
        """
        spreads = np.array([np.sqrt((parts.parts**2).sum()) for parts in self._differences])
        tested = np.flatnonzero(np.nan_to_num(spreads) > NO_SPREAD)
        corrected = np.ones(len(self._differences))
        if len(tested):
            distances = np.abs(self._sums[:, tested]) / spreads[tested]
            order = np.argsort(distances[0], kind="stable")  # the first row holds the observed differences
            largest = np.maximum.accumulate(distances[:, order], axis=1)
            shares = (largest >= distances[0, order] - NO_SPREAD).mean(axis=0)
            corrected[tested[order]] = np.maximum.accumulate(shares[::-1])[::-1]
        single = [1.0 if estimate["p"] is None else estimate["p"] for estimate in self.estimates()]
        return np.maximum(corrected, single)  # cases that agree exactly have a p-value that isn't from flips

    def _estimate(self, number: int, level: float) -> Estimate:
        parts, sums = self._differences[number], self._sums[:, number]
        value = float(parts.value)
        if np.isnan(value):
            return {"value": None, "low": None, "high": None, "p": None}
        if alike := agreeing_cases(parts):
            low, high, p = _without_spread(value, alike, level)
        else:
            low, high = _ends(value, sums, self._weights[:, number], level)
            low, high = _widen_to_jackknife(parts, low, high, level)
            p = float((np.abs(sums) >= abs(value) - NO_SPREAD).mean())
        return {"value": value, "low": max(-1.0, low), "high": min(1.0, high), "p": p}


def agreeing_cases(parts: CaseParts) -> float:
    """Return the effective number of cases if every case has the same difference; 0 otherwise."""
    if np.isnan(parts.value) or parts.weights.max() >= 1:
        return 0.0
    spread = np.abs(parts.parts - parts.value * parts.weights).max()
    return 1 / float((parts.weights**2).sum()) if spread < NO_SPREAD else 0.0


def flipped_sums(columns: Numbers, seed: int, flips: int) -> Numbers:
    """Sum columns over cases with a sign per case, for all combinations of signs or for random ones.

    Args:
        columns: values to sum, (cases, columns).
        seed: seed of the random signs; the same seed gives the same signs on every machine.
        flips: number of random combinations, where there are more than `LISTED_CASES` cases.

    Returns:
        The sums, (flips, columns); in the first row all signs are +. Combinations that differ in all signs are tried
        once, since their sums differ in sign only.
    """
    return np.concatenate([signs @ columns for signs in _signs(len(columns), seed, flips)])


def _signs(cases: int, seed: int, flips: int) -> Iterator[Numbers]:
    """Yield blocks of signs, 1 or -1, of shape (flips, cases)."""
    listed = cases <= LISTED_CASES
    count = 2 ** (cases - 1) if listed else flips
    words = -(-cases // 64)
    random = np.random.Philox(
        seed
    )  # numpy keeps its raw numbers the same across versions, see `intervals.resample_cases`
    for start in range(0, count, FLIPS_AT_ONCE):
        number = min(FLIPS_AT_ONCE, count - start)
        raw = np.arange(start, start + number, dtype="<u8") * 2 if listed else random.random_raw(number * words)
        bits = np.unpackbits(raw.astype("<u8").reshape(number, -1).view(np.uint8), axis=1, bitorder="little")
        signs: Numbers = 1.0 - 2.0 * bits[:, :cases].astype(np.float64)
        if start == 0:
            signs[0] = 1.0
        yield signs


def _ends(value: float, sums: Numbers, weights: Numbers, level: float) -> tuple[float, float]:
    """Compute the interval of the differences that aren't rejected.

    A combination of signs divides the cases into two groups. It rejects a difference beyond those of both groups.
    """
    sides = np.stack([value + sums, value - sums])
    sides[np.abs(sides) < NO_SPREAD] = 0.0
    shares = np.stack([1 + weights, 1 - weights])
    defined = shares > NO_SPREAD
    of_sides = np.divide(sides, shares, out=np.zeros_like(sides), where=defined)
    kept = max(1, int(np.ceil((1 - level) * len(sums) - NO_SPREAD * len(sums))))  # flips that must reach beyond an end
    high = np.partition(np.where(defined, of_sides, np.inf).max(axis=0), -kept)[-kept]
    low = np.partition(np.where(defined, of_sides, -np.inf).min(axis=0), kept - 1)[kept - 1]
    return float(low), float(high)


def _widen_to_jackknife(parts: CaseParts, low: float, high: float, level: float) -> tuple[float, float]:
    """Widen the interval to the jackknife's, except for an end with 0 outside."""
    error = float(np.sqrt((parts.shifts**2).sum()))
    reach = float(stats.t.ppf((1 + level) / 2, parts.freedom)) * error if parts.freedom >= 1 else 2.0
    return (
        low if low > 0 else min(low, parts.value - reach),
        high if high < 0 else max(high, parts.value + reach),
    )


def _without_spread(value: float, cases: float, level: float) -> tuple[float, float, float]:
    """Compute interval and p-value where all cases agree, as for a share of exactly 0 or 1 (see `intervals`)."""
    reach = 1 - ((1 - level) / 2) ** (1 / cases)
    p = 1.0 if value == 0.0 else float(min(1.0, 2 * (1 - min(1.0, abs(value))) ** cases))
    return value - reach, value + reach, p


def holm(p_values: ArrayLike) -> Numbers:
    """Correct p-values for their number (Holm 1979, "A simple sequentially rejective multiple test procedure").

    This bounds the probability of any false finding, however the tests depend on each other.

    Example:
        >>> holm([0.01, 0.04]).tolist()
        [0.02, 0.04]
    """
    single = np.asarray(p_values, np.float64)
    order = np.argsort(single, kind="stable")
    corrected = np.empty_like(single)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(single[order] * np.arange(len(single), 0, -1)))
    return corrected


def rank_ranges(count: int, better: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Compute the range of ranks that remain possible for each model.

    Args:
        count: number of models.
        better: pairs of model numbers (better, worse) that are separable.

    Returns:
        First and last rank of each model, counted from 1: behind all that beat it, before all that it beats.

    Example:
        >>> rank_ranges(3, [(0, 2)])
        [(1, 2), (1, 3), (2, 3)]
    """
    beaten_by, beats = [0] * count, [0] * count
    for winner, loser in better:
        beats[winner] += 1
        beaten_by[loser] += 1
    return [(1 + above, count - below) for above, below in zip(beaten_by, beats, strict=True)]
