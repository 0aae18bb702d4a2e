"""What to draw, and how patches are shared out over cases."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from histopipe.core.errors import HistopipeError

_SIZE_SPREAD = 0.5  # standard deviation of log patches per case; Kaggle's largest IDC case has 40 times its smallest
_NESTED_SHARE = 0.05  # 12 of the 230 cases in Kaggle's IDC sample stand in its archive twice


# Numbers that ids are made of, the first and the last one: all are higher than any of the real data set's, so that a
# synthetic case never passes for a real one. Kaggle's ids of IDC end at 16896; NIH's films of malaria at C241 and its
# patients at P202; BreakHis' numbers at 29960.
CASE_NUMBERS = {"idc": (20_000, 99_999), "malaria": (1000, 99_999), "breakhis": (30_000, 99_999)}


def list_drawn() -> list[str]:
    """List the data sets in whose layout archives are drawn."""
    return list(CASE_NUMBERS)


@dataclass(frozen=True)
class SyntheticSlides:
    """What to draw; the same values give the same bytes.

    Attributes:
        cases: number of cases, one slide each.
        patches: number of patches of all cases together, not counting nested copies.
        nested_copy: whether some cases stand a second time in a nested folder, as in Kaggle's archives.
        seed: any whole number from 0.
        dataset: in whose layout.

    Raises:
        HistopipeError: no such slides can be drawn.
    """

    cases: int = 60
    patches: int = 6000
    nested_copy: bool = True
    seed: int = 42
    dataset: str = "idc"

    def __post_init__(self) -> None:
        """Check the values, so that nothing is half drawn before a bad one shows."""
        if self.dataset not in list_drawn():
            raise HistopipeError(f"synthetic slides of {self.dataset!r}: give one of {', '.join(list_drawn())}")
        first, last = CASE_NUMBERS[self.dataset]
        most = last - first + 1
        if not 1 <= self.cases <= most:
            raise HistopipeError(f"synthetic slides: cases is {self.cases}; give a number from 1 to {most}")
        if self.patches < self.cases:
            raise HistopipeError(
                f"synthetic slides: {self.patches} patches are too few for {self.cases} cases; "
                f"give at least {self.cases} patches or fewer cases"
            )
        if self.seed < 0:
            raise HistopipeError(f"synthetic slides: seed is {self.seed}; give a whole number from 0")


def shared_out(patches: int, cases: int, generator: np.random.Generator) -> np.ndarray:
    """Patches per case: at least one each, exactly as many as asked for in all."""
    weights = np.exp(_SIZE_SPREAD * generator.standard_normal(cases))
    exact = weights / weights.sum() * (patches - cases)
    sizes = np.floor(exact).astype(int)
    largest_remainders = np.argsort(sizes - exact, kind="stable")
    sizes[largest_remainders[: patches - cases - sizes.sum()]] += 1
    return np.asarray(sizes + 1)


def spread_evenly(cases: int, generator: np.random.Generator) -> np.ndarray:
    """A number between 0 and 1 per case, evenly spread and in random order: few cases cover the range like many."""
    return np.asarray((generator.permutation(cases) + 0.5) / cases)


def nested_cases(slides: SyntheticSlides, generator: np.random.Generator) -> np.ndarray:
    """Which cases stand in the archive twice: at least one where there are two or more."""
    count = max(1, round(_NESTED_SHARE * slides.cases)) if slides.nested_copy and slides.cases > 1 else 0
    return np.isin(np.arange(slides.cases), generator.choice(slides.cases, count, replace=False))
