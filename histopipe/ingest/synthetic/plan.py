"""Settings of synthetic slides, and the distribution of patches over cases."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from histopipe.core.errors import HistopipeError

_SIZE_SPREAD = 0.5  # standard deviation of log(patches per case); Kaggle's largest IDC case is 40 times its smallest
_NESTED_SHARE = 0.05  # 12 of the 230 cases in Kaggle's IDC sample are in its archive twice


# First and last number of synthetic case ids. All are higher than those of the real data sets, so that no synthetic
# case is mistaken for a real one: the ids of IDC end at 16896, the films of malaria at C241 and its patients at P202,
# the numbers of BreakHis at 29960.
CASE_NUMBERS = {"idc": (20_000, 99_999), "malaria": (1000, 99_999), "breakhis": (30_000, 99_999)}


def list_drawn() -> list[str]:
    """List the data sets that can be drawn."""
    return list(CASE_NUMBERS)


@dataclass(frozen=True)
class SyntheticSlides:
    """Settings of synthetic slides; the same values give the same bytes.

    Attributes:
        cases: number of cases, one slide each.
        patches: number of patches of all cases, without nested copies.
        nested_copy: whether a nested folder contains some cases a second time, as in Kaggle's archives.
        seed: seed of the random numbers, 0 or more.
        dataset: data set whose layout the archive has.

    Raises:
        HistopipeError: the slides can't be drawn with these values.

    Example:
        >>> write_archive(Path("idc.zip"), SyntheticSlides(cases=60, patches=6000, dataset="idc"))
    """

    cases: int = 60
    patches: int = 6000
    nested_copy: bool = True
    seed: int = 42
    dataset: str = "idc"

    def __post_init__(self) -> None:
        """Check all values before anything is drawn."""
        if self.dataset not in list_drawn():
            raise HistopipeError(
                f"synthetic slides: dataset is {self.dataset!r}; give one of {', '.join(list_drawn())}"
            )
        first, last = CASE_NUMBERS[self.dataset]
        max_cases = last - first + 1
        if not 1 <= self.cases <= max_cases:
            raise HistopipeError(f"synthetic slides: cases is {self.cases}; give a number from 1 to {max_cases}")
        if self.patches < self.cases:
            raise HistopipeError(
                f"synthetic slides: {self.patches} patches are too few for {self.cases} cases; "
                f"give at least {self.cases} patches or fewer cases"
            )
        if self.seed < 0:
            raise HistopipeError(f"synthetic slides: seed is {self.seed}; give a whole number from 0")


def distribute_patches(patches: int, cases: int, generator: np.random.Generator) -> np.ndarray:
    """Draw the number of patches of each case: at least one each, `patches` in total."""
    weights = np.exp(_SIZE_SPREAD * generator.standard_normal(cases))
    exact = weights / weights.sum() * (patches - cases)
    sizes = np.floor(exact).astype(int)
    largest_remainders = np.argsort(sizes - exact, kind="stable")
    sizes[largest_remainders[: patches - cases - sizes.sum()]] += 1
    return np.asarray(sizes + 1)


def spread_evenly(cases: int, generator: np.random.Generator) -> np.ndarray:
    """Return evenly spaced numbers between 0 and 1 in random order, one per case, so that few cases cover the range."""
    return np.asarray((generator.permutation(cases) + 0.5) / cases)


def choose_nested_cases(slides: SyntheticSlides, generator: np.random.Generator) -> np.ndarray:
    """Choose the cases that the archive contains twice: at least one if there are two or more."""
    count = max(1, round(_NESTED_SHARE * slides.cases)) if slides.nested_copy and slides.cases > 1 else 0
    return np.isin(np.arange(slides.cases), generator.choice(slides.cases, count, replace=False))
