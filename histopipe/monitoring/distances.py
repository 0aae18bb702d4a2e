"""Wasserstein distances between groups of cases, and their p-values by permutation.

Patches of one case are alike, so the case is the unit: every case has the same weight, and permutations exchange cases
and never patches.
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
PERMUTATIONS = 2000  # including the observed one


@dataclass(frozen=True)
class Curves:
    """Distribution functions of one feature by case, reference cases first, on a grid of quantiles.

    Attributes:
        heights: share of each case's patches at or below each point of the grid, (cases, points).
        steps: distance of each point to the next, in standard deviations of the reference's patches, (points,).
        reference: number of reference cases.
    """

    heights: Numbers
    steps: Numbers
    reference: int

    @classmethod
    def from_profiles(cls, reference: Numbers, new: Numbers) -> Curves:
        """Create curves from the profiles of reference cases and of new cases, each (cases, levels)."""
        values = np.concatenate([reference, new])
        grid = np.quantile(values, np.linspace(0, 1, GRID))
        heights = np.stack([np.searchsorted(case, grid, "right") / len(case) for case in np.sort(values, axis=1)])
        spread = reference.std() or 1.0  # a constant feature has no spread
        return cls(heights, np.diff(grid, append=grid[-1]) / spread, len(reference))

    def between(self, first: Numbers, second: Numbers) -> Numbers:
        """Compute the Wasserstein distance of distribution functions, (…, points), in the reference's deviations."""
        return np.asarray(np.abs(first - second) @ self.steps)

    def chosen(self, membership: Numbers) -> Numbers:
        """Compute the distance of chosen cases to all others for each row of `membership`, (choices, cases), 0 or 1."""
        count = membership.sum(axis=1, keepdims=True)
        sums = membership @ self.heights
        others = (self.heights.sum(axis=0) - sums) / (len(self.heights) - count)
        return self.between(sums / count, others)

    def of_cases(self) -> Numbers:
        """Compute distances of reference cases to the other ones, and of new cases to the reference: (cases,)."""
        total = self.heights[: self.reference].sum(axis=0)
        old = self.heights[: self.reference]
        others = (total - old) / max(1, self.reference - 1)
        return np.concatenate(
            [self.between(old, others), self.between(self.heights[self.reference :], total / self.reference)]
        )


def memberships(reference: int, new: int, seed: int) -> Numbers:
    """List the choices of cases that are treated as new, (choices, cases), 0 or 1; the first is the actual one.

    All choices are listed if there are at most `PERMUTATIONS`; otherwise, so many random ones.
    """
    cases = reference + new
    chosen = np.zeros((min(PERMUTATIONS, comb(cases, new)), cases))
    chosen[0, reference:] = 1
    if comb(cases, new) <= PERMUTATIONS:
        others = (choice for choice in combinations(range(cases), new) if choice != tuple(range(reference, cases)))
        for row, choice in enumerate(others, 1):
            chosen[row, list(choice)] = 1
    else:
        random = np.random.default_rng(seed)
        chosen[1:, :new] = 1
        chosen[1:] = random.permuted(chosen[1:], axis=1)
    return chosen


def p_values(curves: Sequence[Curves], seed: int) -> tuple[Numbers, Numbers]:
    """Compute the distance of the new cases in each feature, and its p-value under random exchanges of cases.

    P-values are adjusted by the single-step maxT method of Westfall & Young 1993. The same exchanges are used for all
    features, so that correlated features aren't penalised twice. The test is exact if new and reference cases are
    interchangeable.

    Args:
        curves: curves of features of the same cases.
        seed: seed of the exchanges.

    Returns:
        The distance and the adjusted p-value of each feature.
    """
    first = curves[0]
    membership = memberships(first.reference, len(first.heights) - first.reference, seed)
    distances = np.stack([feature.chosen(membership) for feature in curves], axis=1)
    spread = distances.std(axis=0)
    standardised = (distances - distances.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    largest = standardised.max(axis=1)
    as_far = (largest[:, None] >= standardised[0] - 1e-9).mean(axis=0)
    return distances[0], as_far


def least_p_value(reference: int, new: int) -> float:
    """Return the smallest p-value that is possible with these numbers of cases."""
    return 1 / min(PERMUTATIONS, comb(reference + new, new))
