"""Plan of the donors to draw: numbers of cells and of parasitized ones."""

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

FIRST_FILM, LAST_FILM = CASE_NUMBERS["malaria"]

_HEALTHY_SHARE = 0.25  # 50 of the 200 donors have uninfected cells only
# Shares of parasitized cells of infected donors are spread evenly over this range. As a quarter of the donors are
# healthy, about half of all cells are parasitized, as in the complete set.
_POSITIVE_SHARES = (0.35, 0.95)

# What follows the patient's id in real names, with frequencies, by donors of NIH's sample.
_INFECTED_FORMS = {
    "ThinF": 0.62,
    "thinF": 0.12,
    "_ThinF": 0.06,
    "N_ThinF": 0.06,
    "NThinF": 0.06,
    "ReThinF": 0.02,
    "thinF_original": 0.02,
    "thin_original": 0.02,
    "_thinF": 0.02,
}
_HEALTHY_FORMS = {"ThinF": 0.78, "NThinF": 0.12, "NthinF": 0.03, "_thinF": 0.03, "thin_original": 0.04}
_TWO_MICROSCOPES = ("thin_Original_Motic", "thinOriginalOlympusCX21")  # both for one patient, C47P8
_MIN_CASES = 10  # with fewer cases, one such donor would be too large a share


@dataclass(frozen=True)
class DonorPlan:
    """A donor to draw.

    Attributes:
        prefixes: what the donor's file names start with.
        cells: number of cells.
        positives: number of parasitized cells.
        nested: whether the archive contains the donor a second time.
        seed: seed of the random numbers.
    """

    prefixes: tuple[str, ...]
    cells: int
    positives: int
    nested: bool
    seed: tuple[int, int]


def plan_cases(slides: SyntheticSlides) -> list[DonorPlan]:
    """Distribute cells over donors, sorted by the number of their films. A quarter of the donors are healthy."""
    generator = np.random.default_rng([slides.seed, 2])
    films = sorted(FIRST_FILM + generator.choice(LAST_FILM - FIRST_FILM + 1, slides.cases, replace=False))
    cells = distribute_patches(slides.patches, slides.cases, generator)
    ranks = spread_evenly(slides.cases, generator)
    nested = choose_nested_cases(slides, generator)
    double = int(np.argmax(ranks)) if slides.cases >= _MIN_CASES else -1
    donors = []
    for index, film in enumerate(films):
        share = _compute_positive_share(float(ranks[index]))
        prefixes = _choose_prefixes(int(film), share > 0, index == double, generator)
        positives = max(1, round(share * cells[index])) if share else 0
        seed = (slides.seed, int(film))
        donors.append(DonorPlan(prefixes, int(cells[index]), int(positives), bool(nested[index]), seed))
    return donors


def _compute_positive_share(rank: float) -> float:
    """Return the share of parasitized cells for a donor's rank from 0 to 1; it is 0 for healthy donors."""
    if rank < _HEALTHY_SHARE:
        return 0.0
    return float(np.interp(rank, (_HEALTHY_SHARE, 1), _POSITIVE_SHARES))


def _choose_prefixes(film: int, infected: bool, double: bool, generator: np.random.Generator) -> tuple[str, ...]:
    """Choose what a donor's file names start with: the film, for infected donors the patient, and how it was taken."""
    forms = _INFECTED_FORMS if infected else _HEALTHY_FORMS
    form = str(generator.choice(list(forms), p=list(forms.values())))
    patient = f"C{film}P{film - 39}" if infected else f"C{film}"
    return tuple(f"{patient}{suffix}" for suffix in (_TWO_MICROSCOPES if double else (form,)))
