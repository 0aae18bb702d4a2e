"""Plan of the cases to draw: numbers of patches and of positive ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from histopipe.ingest.synthetic.plan import (
    CASE_NUMBERS,
    SyntheticSlides,
    choose_nested_cases,
    distribute_patches,
    spread_evenly,
)

FIRST_CASE_ID, LAST_CASE_ID = CASE_NUMBERS["idc"]

# Share of positive patches per case at these quantiles: those of Kaggle's set (0, .06, .13, .28, .44, .61, 1 in a
# sample of 9,291 patches of 230 cases), reduced by a tenth so that the overall share is Kaggle's 28 %.
_SHARE_QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
_POSITIVE_SHARES = (0.0, 0.05, 0.12, 0.25, 0.40, 0.55, 0.85)


@dataclass(frozen=True)
class CasePlan:
    """A case to draw.

    Attributes:
        case_id: the case id.
        patches: number of patches.
        positives: number of positive patches.
        nested: whether the archive contains the case a second time.
        seed: seed of the random numbers.
    """

    case_id: str
    patches: int
    positives: int
    nested: bool
    seed: tuple[int, int]


def plan_cases(slides: SyntheticSlides) -> list[CasePlan]:
    """Distribute patches over cases, sorted by case id."""
    generator = np.random.default_rng([slides.seed, 0])
    ids = FIRST_CASE_ID + generator.choice(LAST_CASE_ID - FIRST_CASE_ID + 1, slides.cases, replace=False)
    sizes = distribute_patches(slides.patches, slides.cases, generator)
    positives = np.rint(sizes * _draw_positive_shares(slides.cases, generator)).astype(int)
    nested = choose_nested_cases(slides, generator)
    return [
        CasePlan(str(case_id), int(size), int(count), bool(is_nested), (slides.seed, int(case_id)))
        for case_id, size, count, is_nested in zip(sorted(ids), sizes, positives, nested, strict=True)
    ]


def _draw_positive_shares(cases: int, generator: np.random.Generator) -> np.ndarray:
    """Draw a share per case, evenly over the quantiles, so that the mean is about 28 % even for few cases."""
    return np.interp(spread_evenly(cases, generator), _SHARE_QUANTILES, _POSITIVE_SHARES)
