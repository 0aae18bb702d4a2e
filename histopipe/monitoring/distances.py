"""Wasserstein distances between groups of cases, and how often chance makes them as large.

Patches of one case are alike, so the case is what is counted: every case weighs the same, and what chance does is seen
by exchanging cases, never patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

GRID = 256
PERMUTATIONS = 2000  # the one that was observed among them


@dataclass(frozen=True)
class Curves:
    """Distribution functions of one feature's cases, reference first, on a grid that follows the values.

    Attributes:
        heights: share of each case's patches at or below each point of the grid, (cases, points).
        steps: from each point to the next, in standard deviations of the reference's patches, (points,).
        reference: number of reference cases.
    """

    heights: Numbers
    steps: Numbers
    reference: int

    @classmethod
    def of(cls, reference: Numbers, new: Numbers) -> Curves:
        """From the profiles of both, (cases, levels)."""
        values = np.concatenate([reference, new])
        grid = np.quantile(values, np.linspace(0, 1, GRID))
        heights = np.stack([np.searchsorted(case, grid, "right") / len(case) for case in np.sort(values, axis=1)])
        spread = reference.std() or 1.0  # a feature that never varies
        return cls(heights, np.diff(grid, append=grid[-1]) / spread, len(reference))

    def between(self, first: Numbers, second: Numbers) -> Numbers:
        """Wasserstein distance of distribution functions, (…, points), in standard deviations of the reference."""
        return np.asarray(np.abs(first - second) @ self.steps)

    def chosen(self, membership: Numbers) -> Numbers:
        """Distance of the cases chosen to all others, for each row of `membership`, (choices, cases) of 0 and 1."""
        count = membership.sum(axis=1, keepdims=True)
        sums = membership @ self.heights
        others = (self.heights.sum(axis=0) - sums) / (len(self.heights) - count)
        return self.between(sums / count, others)

    def of_cases(self) -> Numbers:
        """Distance of every reference case to the other ones, and of every new one to the reference, (cases,)."""
        total = self.heights[: self.reference].sum(axis=0)
        old = self.heights[: self.reference]
        others = (total - old) / max(1, self.reference - 1)
        return np.concatenate(
            [self.between(old, others), self.between(self.heights[self.reference :], total / self.reference)]
        )


def memberships(reference: int, new: int, seed: int) -> Numbers:
    """Which cases are taken for the new ones, (choices, cases) of 0 and 1; first as it is, then every other way.

    Where there are more ways than `PERMUTATIONS`, so many of them by chance.
    """
    cases = reference + new
    chosen = np.zeros((min(PERMUTATIONS, comb(cases, new)), cases))
    chosen[0, reference:] = 1
    if comb(cases, new) <= PERMUTATIONS:
        others = (way for way in combinations(range(cases), new) if way != tuple(range(reference, cases)))
        for row, way in enumerate(others, 1):
            chosen[row, list(way)] = 1
    else:
        random = np.random.default_rng(seed)
        chosen[1:, :new] = 1
        chosen[1:] = random.permuted(chosen[1:], axis=1)
    return chosen


def chances(curves: Sequence[Curves], seed: int) -> tuple[Numbers, Numbers]:
    """How far the new cases lie, and how often cases exchanged by chance lie as far in any of these features.

    Single-step maxT of Westfall & Young 1993: the same exchanges serve all features, so that those that go together
    aren't paid for twice. Exact where new cases are as interchangeable with the reference's as these are.

    Args:
        curves: of features of the same cases.
        seed: of the exchanges.

    Returns:
        Distance, and p-value adjusted for the number of features, of each feature.
    """
    first = curves[0]
    membership = memberships(first.reference, len(first.heights) - first.reference, seed)
    distances = np.stack([one.chosen(membership) for one in curves], axis=1)
    spread = distances.std(axis=0)
    scores = (distances - distances.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    largest = scores.max(axis=1)
    as_far = (largest[:, None] >= scores[0] - 1e-9).mean(axis=0)
    return distances[0], as_far


def least_chance(reference: int, new: int) -> float:
    """The smallest p-value that so many cases can give."""
    return 1 / min(PERMUTATIONS, comb(reference + new, new))
