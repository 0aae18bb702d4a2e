"""Whose tumours are drawn, of which subtype, and how many fields at each magnification."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from histopipe.ingest.datasets.breakhis import MAGNIFICATIONS, SUBTYPES
from histopipe.ingest.synthetic.plan import CASE_NUMBERS, SyntheticSlides, shared_out, spread_evenly

FIRST_PATIENT, LAST_PATIENT = CASE_NUMBERS["breakhis"]

_PATIENTS = {"A": 4, "F": 10, "PT": 3, "TA": 7, "DC": 38, "LC": 5, "MC": 9, "PC": 6}  # of BreakHis' 82
_LETTERS = ("", "", "", "AB", "CD", "C", "E", "DE")  # which block of tissue it was; most ids have none
_FROM_CASES = 10  # one patient under two subtypes in so few would be too many


@dataclass(frozen=True)
class PatientPlan:
    """One patient to draw.

    Attributes:
        patient: the id as it stands in names, `14-22549AB`.
        subtypes: letters of the tumour's subtype; two where the patient is filed under both, as 14-13412 is.
        magnifications: of each field.
        seed: of the random stream.
    """

    patient: str
    subtypes: tuple[str, ...]
    magnifications: tuple[int, ...]
    seed: tuple[int, int]

    @property
    def label(self) -> int:
        """1 where the tumour is malignant."""
        return SUBTYPES[self.subtypes[0]][1]


def plan_cases(slides: SyntheticSlides) -> list[PatientPlan]:
    """Share the fields out over patients, in order of their numbers, and over magnifications, in turn."""
    generator = np.random.default_rng([slides.seed, 3])
    numbers = sorted(FIRST_PATIENT + generator.choice(LAST_PATIENT - FIRST_PATIENT + 1, slides.cases, replace=False))
    fields = shared_out(slides.patches, slides.cases, generator)
    subtypes = _subtypes(spread_evenly(slides.cases, generator))
    twice = subtypes.index("DC") if slides.cases >= _FROM_CASES else -1
    patients = []
    for place, number in enumerate(numbers):
        first = int(generator.integers(len(MAGNIFICATIONS)))
        turns = [MAGNIFICATIONS[(first + turn) % len(MAGNIFICATIONS)] for turn in range(fields[place])]
        patient = f"{14 + (number % 40 == 0)}-{number}{generator.choice(_LETTERS)}"
        filed = ("DC", "LC") if place == twice else (subtypes[place],)
        patients.append(PatientPlan(patient, filed, tuple(turns), (slides.seed, int(number))))
    return patients


def _subtypes(standing: np.ndarray) -> list[str]:
    """Subtypes in BreakHis' proportions; `standing` is each patient's place among all, from 0 to 1."""
    ends = np.cumsum(list(_PATIENTS.values())) / sum(_PATIENTS.values())
    letters = list(_PATIENTS)
    return [letters[int(np.searchsorted(ends, place))] for place in standing]
