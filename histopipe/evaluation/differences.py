"""How sure one can be of a difference between two models that were graded on the same cases.

Were two models equally good, it would be chance which of them is ahead in a case. So each case's part in the difference
(see `case_parts`) is turned round at random, which is what exchanging the two models' answers in that case does, and
the p-value is how often the sum then lies as far from 0 as the one measured: a randomisation test (Fisher 1935, "The
design of experiments"). Up to `LISTED_CASES` cases all ways are tried; beyond, `LEAST_FLIPS` at random.

The interval holds the differences that the same test would not reject, where a case of weight w has a part of w times
the difference. Its ends are quantiles of the difference in random parts of the cases (Hartigan 1969,
doi:10.1080/01621459.1969.10501057), so it leaves out 0 exactly where p is below .05. Exchanging says most about a
difference of 0: a larger one shrinks in easy cases, where both models come near 1, and no exchange shows that. So an
end with 0 inside of it is no closer than the jackknife's standard error times a t quantile for the cases that count, by
Kish. With fewer than six cases no test can reach the level: the interval is [-1, 1].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from histopipe.evaluation.case_parts import CaseParts
from histopipe.evaluation.intervals import LEVEL, Estimate
from histopipe.evaluation.metrics import Numbers

NO_SPREAD = 1e-12  # below it nothing differs but by rounding
LISTED_CASES = 15  # of which all ways of turning parts round are tried
LEAST_FLIPS = 2 ** (LISTED_CASES - 1)
FLIPS_AT_ONCE = 2048


def difference(found: CaseParts, seed: int, level: float = LEVEL) -> Estimate:
    """One difference with its interval and p-value, see `Flips.estimates`."""
    return Flips([found], seed).estimates(level)[0]


class Flips:
    """Any number of differences on the same cases, whose parts are turned round together.

    Args:
        found: the differences.
        seed: decides which turns are drawn where there are too many to try all of them.
        least: how many are drawn at least.
    """

    def __init__(self, found: Sequence[CaseParts], seed: int, least: int = LEAST_FLIPS) -> None:
        self._found = list(found)
        columns = [column for each in found for column in (each.parts, each.weights)]
        sums = flipped_sums(np.column_stack(columns), seed, max(least, LEAST_FLIPS)) if found else np.empty((1, 0))
        self._sums, self._weights = sums[:, ::2], sums[:, 1::2]

    def estimates(self, level: float = LEVEL) -> list[Estimate]:
        """Each difference of two shares with its interval, which ends at -1 and 1, and its p-value.

        Args:
            level: of the interval, such as 0.95; the rest is shared by both sides.

        Returns:
            `value`, `low`, `high` and the two-sided `p`, each None where the difference isn't defined.
        """
        return [self._measured(place, level) for place in range(len(self._found))]

    def corrected_p_values(self) -> Numbers:
        """P-values corrected for how many differences there are.

        Each is set against the largest of all sums, in units of their spreads, in the same turn; the second largest
        against the largest of the others, and so on (step-down maxT, Westfall & Young 1993, "Resampling-based multiple
        testing", algorithm 2.8). Differences that go together aren't paid for twice, as they are with Holm's
        correction. One that isn't defined counts as 1.
        """
        spreads = np.array([np.sqrt((each.parts**2).sum()) for each in self._found])
        tested = np.flatnonzero(np.nan_to_num(spreads) > NO_SPREAD)
        answers = np.ones(len(self._found))
        if len(tested):
            distances = np.abs(self._sums[:, tested]) / spreads[tested]
            order = np.argsort(distances[0], kind="stable")  # the first turn leaves everything as it is
            largest = np.maximum.accumulate(distances[:, order], axis=1)
            shares = (largest >= distances[0, order] - NO_SPREAD).mean(axis=0)
            answers[tested[order]] = np.maximum.accumulate(shares[::-1])[::-1]
        single = [1.0 if each["p"] is None else each["p"] for each in self.estimates()]
        return np.maximum(answers, single)  # cases that all say the same have a p-value of their own

    def _measured(self, place: int, level: float) -> Estimate:
        found = self._found[place]
        value = float(found.value)
        if np.isnan(value):
            return {"value": None, "low": None, "high": None, "p": None}
        if alike := agreeing_cases(found):
            low, high, p = _without_spread(value, alike, level)
        else:
            low, high = _ends(value, self._sums[:, place], self._weights[:, place], level)
            low, high = _beyond_zero(found, low, high, level)
            p = float((np.abs(self._sums[:, place]) >= abs(value) - NO_SPREAD).mean())
        return {"value": value, "low": max(-1.0, low), "high": min(1.0, high), "p": p}


def agreeing_cases(found: CaseParts) -> float:
    """Return as how many cases of equal size those count that all say the same of a difference; 0 where some differ."""
    if np.isnan(found.value) or found.weights.max() >= 1:
        return 0.0
    spread = np.abs(found.parts - found.value * found.weights).max()
    return 1 / float((found.weights**2).sum()) if spread < NO_SPREAD else 0.0


def flipped_sums(columns: Numbers, seed: int, flips: int) -> Numbers:
    """Sums over cases, each with a sign: of all ways to set them, or of `flips` at random.

    Args:
        columns: (cases, columns).
        seed: decides which signs are drawn; the same seed draws the same ones on every machine.
        flips: how many are drawn, where there are more ways.

    Returns:
        (flips, columns); in the first row all signs are +. Turning all of them round is left out: it turns the sum.
    """
    return np.concatenate([signs @ columns for signs in _signs(len(columns), seed, flips)])


def _signs(cases: int, seed: int, flips: int) -> Iterator[Numbers]:
    """1 or -1 per case, (flips, cases), so many at a time."""
    listed = cases <= LISTED_CASES
    count = 2 ** (cases - 1) if listed else flips
    words = -(-cases // 64)
    random = np.random.Philox(seed)  # whose raw numbers numpy keeps the same, see `intervals.draw_cases`
    for start in range(0, count, FLIPS_AT_ONCE):
        number = min(FLIPS_AT_ONCE, count - start)
        raw = np.arange(start, start + number, dtype="<u8") * 2 if listed else random.random_raw(number * words)
        bits = np.unpackbits(raw.astype("<u8").reshape(number, -1).view(np.uint8), axis=1, bitorder="little")
        signs: Numbers = 1.0 - 2.0 * bits[:, :cases].astype(np.float64)
        if start == 0:
            signs[0] = 1.0
        yield signs


def _ends(value: float, sums: Numbers, weights: Numbers, level: float) -> tuple[float, float]:
    """The interval of the differences that aren't rejected.

    A turn puts some cases on one side and the rest on the other. A difference beyond both sides' own is rejected by it.
    """
    sides = np.stack([value + sums, value - sums])
    sides[np.abs(sides) < NO_SPREAD] = 0.0
    shares = np.stack([1 + weights, 1 - weights])
    known = shares > NO_SPREAD
    of_sides = np.divide(sides, shares, out=np.zeros_like(sides), where=known)
    kept = max(1, int(np.ceil((1 - level) * len(sums) - NO_SPREAD * len(sums))))  # turns that must reach beyond an end
    high = np.partition(np.where(known, of_sides, np.inf).max(axis=0), -kept)[-kept]
    low = np.partition(np.where(known, of_sides, -np.inf).min(axis=0), kept - 1)[kept - 1]
    return float(low), float(high)


def _beyond_zero(found: CaseParts, low: float, high: float, level: float) -> tuple[float, float]:
    """Ends that are no closer than the jackknife's, but for one that has 0 outside."""
    error = float(np.sqrt((found.moved**2).sum()))
    reach = float(stats.t.ppf((1 + level) / 2, found.freedom)) * error if found.freedom >= 1 else 2.0
    return (
        low if low > 0 else min(low, found.value - reach),
        high if high < 0 else max(high, found.value + reach),
    )


def _without_spread(value: float, cases: float, level: float) -> tuple[float, float, float]:
    """Interval and p-value where so many cases all say the same: as of a share never seen to miss, see `intervals`."""
    reach = 1 - ((1 - level) / 2) ** (1 / cases)
    p = 1.0 if value == 0.0 else float(min(1.0, 2 * (1 - min(1.0, abs(value))) ** cases))
    return value - reach, value + reach, p


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
