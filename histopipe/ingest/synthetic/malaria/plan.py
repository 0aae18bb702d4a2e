"""Who gave blood, how many cells of each are there, and how many of them are parasitized."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from histopipe.ingest.synthetic.plan import CASE_NUMBERS, SyntheticSlides, nested_cases, shared_out, spread_evenly

FIRST_FILM, LAST_FILM = CASE_NUMBERS["malaria"]

_HEALTHY_SHARE = 0.25  # 50 of the 200 donors have uninfected cells only
# Share of parasitized cells of an infected donor, evenly between these: with a quarter healthy, about half of all
# cells, as in the complete set.
_POSITIVE_SHARES = (0.35, 0.95)

# What stands behind the patient's id in real names and how often, by donors of NIH's sample.
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
_TWO_MICROSCOPES = ("thin_Original_Motic", "thinOriginalOlympusCX21")  # both of one patient, C47P8
_FROM_CASES = 10  # one donor in so few would be too many


@dataclass(frozen=True)
class DonorPlan:
    """One donor to draw: the starts of file names, cells, the parasitized among them, the seed of the random stream."""

    prefixes: tuple[str, ...]
    cells: int
    positives: int
    nested: bool
    seed: tuple[int, int]


def plan_cases(slides: SyntheticSlides) -> list[DonorPlan]:
    """Share the cells out over donors, in order of their films' numbers; a quarter of the donors is healthy."""
    generator = np.random.default_rng([slides.seed, 2])
    films = sorted(FIRST_FILM + generator.choice(LAST_FILM - FIRST_FILM + 1, slides.cases, replace=False))
    cells = shared_out(slides.patches, slides.cases, generator)
    standing = spread_evenly(slides.cases, generator)
    nested = nested_cases(slides, generator)
    twice = int(np.argmax(standing)) if slides.cases >= _FROM_CASES else -1
    donors = []
    for place, film in enumerate(films):
        share = _positive_share(float(standing[place]))
        prefixes = _prefixes(int(film), share > 0, place == twice, generator)
        positives = max(1, round(share * cells[place])) if share else 0
        seed = (slides.seed, int(film))
        donors.append(DonorPlan(prefixes, int(cells[place]), int(positives), bool(nested[place]), seed))
    return donors


def _positive_share(standing: float) -> float:
    """0 for the healthy; `standing` is the donor's place among all, from 0 to 1."""
    if standing < _HEALTHY_SHARE:
        return 0.0
    return float(np.interp(standing, (_HEALTHY_SHARE, 1), _POSITIVE_SHARES))


def _prefixes(film: int, infected: bool, twice: bool, generator: np.random.Generator) -> tuple[str, ...]:
    """Healthy donors' films have no patient number; the infected are numbered apart."""
    forms = _INFECTED_FORMS if infected else _HEALTHY_FORMS
    form = str(generator.choice(list(forms), p=list(forms.values())))
    patient = f"C{film}P{film - 39}" if infected else f"C{film}"
    return tuple(f"{patient}{each}" for each in (_TWO_MICROSCOPES if twice else (form,)))
