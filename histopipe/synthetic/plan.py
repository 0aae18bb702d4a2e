"""What to draw: how many patches each case has and how many of them are positive."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from histopipe.errors import HistopipeError

# Kaggle's case ids end at 16896; starting above keeps a synthetic case from ever passing for a real one.
FIRST_CASE_ID, LAST_CASE_ID = 20_000, 99_999

# Share of positive patches per case, at these quantiles: those of Kaggle's set (0, .06, .13, .28, .44, .61, 1
# in a sample of 9,291 patches of 230 cases), lowered by a tenth so that the whole comes to its 28 %.
_SHARE_QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
_POSITIVE_SHARES = (0.0, 0.05, 0.12, 0.25, 0.40, 0.55, 0.85)

_SIZE_SPREAD = 0.5  # standard deviation of log patches per case; Kaggle's largest case has 40 times its smallest
_NESTED_SHARE = 0.05  # 12 of the 230 cases in Kaggle's sample stand in its archive twice


@dataclass(frozen=True)
class SyntheticSlides:
    """What to draw; the same values give the same bytes.

    Attributes:
        cases: number of cases, one slide each.
        patches: number of patches of all cases together, not counting nested copies.
        nested_copy: whether some cases stand a second time in a nested folder, as in Kaggle's archive.
        seed: any whole number from 0.

    Raises:
        HistopipeError: no such slides can be drawn.
    """

    cases: int = 60
    patches: int = 6000
    nested_copy: bool = True
    seed: int = 42

    def __post_init__(self) -> None:
        """Check the values, so that nothing is half drawn before a bad one shows."""
        most = LAST_CASE_ID - FIRST_CASE_ID + 1
        if not 1 <= self.cases <= most:
            raise HistopipeError(f"synthetic slides: cases is {self.cases}; give a number from 1 to {most}")
        if self.patches < self.cases:
            raise HistopipeError(
                f"synthetic slides: {self.patches} patches are too few for {self.cases} cases; "
                f"give at least {self.cases} patches or fewer cases"
            )
        if self.seed < 0:
            raise HistopipeError(f"synthetic slides: seed is {self.seed}; give a whole number from 0")


@dataclass(frozen=True)
class CasePlan:
    """One case to draw: its id, its patches, the positives among them, and the seed of its random stream."""

    case_id: str
    patches: int
    positives: int
    nested: bool
    seed: tuple[int, int]


def plan_cases(slides: SyntheticSlides) -> list[CasePlan]:
    """Share the patches out over cases, in order of case id."""
    generator = np.random.default_rng([slides.seed, 0])
    ids = FIRST_CASE_ID + generator.choice(LAST_CASE_ID - FIRST_CASE_ID + 1, slides.cases, replace=False)
    sizes = _sizes(slides, generator)
    positives = np.rint(sizes * _positive_shares(slides.cases, generator)).astype(int)
    nested = _nested(slides, generator)
    return [
        CasePlan(str(case_id), int(size), int(count), bool(copied), (slides.seed, int(case_id)))
        for case_id, size, count, copied in zip(sorted(ids), sizes, positives, nested, strict=True)
    ]


def _sizes(slides: SyntheticSlides, generator: np.random.Generator) -> np.ndarray:
    """Patches per case: at least one each, exactly as many as asked for in all."""
    weights = np.exp(_SIZE_SPREAD * generator.standard_normal(slides.cases))
    exact = weights / weights.sum() * (slides.patches - slides.cases)
    sizes = np.floor(exact).astype(int)
    largest_remainders = np.argsort(sizes - exact, kind="stable")
    sizes[largest_remainders[: slides.patches - slides.cases - sizes.sum()]] += 1
    return np.asarray(sizes + 1)


def _positive_shares(cases: int, generator: np.random.Generator) -> np.ndarray:
    """One share per case, evenly over the quantiles, so that few cases come to 28 % as well as many."""
    quantiles = (generator.permutation(cases) + 0.5) / cases
    return np.interp(quantiles, _SHARE_QUANTILES, _POSITIVE_SHARES)


def _nested(slides: SyntheticSlides, generator: np.random.Generator) -> np.ndarray:
    """Which cases stand in the archive twice: at least one where there are two or more."""
    count = max(1, round(_NESTED_SHARE * slides.cases)) if slides.nested_copy and slides.cases > 1 else 0
    return np.isin(np.arange(slides.cases), generator.choice(slides.cases, count, replace=False))
