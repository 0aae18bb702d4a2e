"""What to draw of each case: how many patches, and how many of them are positive."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from histopipe.ingest.synthetic.plan import CASE_NUMBERS, SyntheticSlides, nested_cases, shared_out, spread_evenly

FIRST_CASE_ID, LAST_CASE_ID = CASE_NUMBERS["idc"]

# Share of positive patches per case, at these quantiles: those of Kaggle's set (0, .06, .13, .28, .44, .61, 1
# in a sample of 9,291 patches of 230 cases), lowered by a tenth so that the whole comes to its 28 %.
_SHARE_QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
_POSITIVE_SHARES = (0.0, 0.05, 0.12, 0.25, 0.40, 0.55, 0.85)


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
    sizes = shared_out(slides.patches, slides.cases, generator)
    positives = np.rint(sizes * _positive_shares(slides.cases, generator)).astype(int)
    nested = nested_cases(slides, generator)
    return [
        CasePlan(str(case_id), int(size), int(count), bool(copied), (slides.seed, int(case_id)))
        for case_id, size, count, copied in zip(sorted(ids), sizes, positives, nested, strict=True)
    ]


def _positive_shares(cases: int, generator: np.random.Generator) -> np.ndarray:
    """One share per case, evenly over the quantiles, so that few cases come to 28 % as well as many."""
    return np.interp(spread_evenly(cases, generator), _SHARE_QUANTILES, _POSITIVE_SHARES)
