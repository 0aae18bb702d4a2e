"""Plan of the patients to draw: subtype, and number of fields of view at each magnification."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from histopipe.ingest.datasets.breakhis import MAGNIFICATIONS, SUBTYPES
from histopipe.ingest.synthetic.plan import CASE_NUMBERS, SyntheticSlides, distribute_patches, spread_evenly

FIRST_PATIENT, LAST_PATIENT = CASE_NUMBERS["breakhis"]

_PATIENTS = {"A": 4, "F": 10, "PT": 3, "TA": 7, "DC": 38, "LC": 5, "MC": 9, "PC": 6}  # of the 82 in BreakHis
_LETTERS = ("", "", "", "AB", "CD", "C", "E", "DE")  # which block of tissue; most ids have no letters
_MIN_CASES = 10  # with fewer cases, one patient under two subtypes would be too large a share


@dataclass(frozen=True)
class PatientPlan:
    """A patient to draw.

    Attributes:
        patient: the id in file names, such as `14-22549AB`.
        subtypes: letters of the tumour's subtype; two if the patient is filed under both, like 14-13412.
        magnifications: magnification of each field of view.
        seed: seed of the random numbers.
    """

    patient: str
    subtypes: tuple[str, ...]
    magnifications: tuple[int, ...]
    seed: tuple[int, int]

    @property
    def label(self) -> int:
        """Return 1 for a malignant tumour, else 0."""
        return SUBTYPES[self.subtypes[0]][1]


def plan_cases(slides: SyntheticSlides) -> list[PatientPlan]:
    """Distribute fields of view over patients, sorted by number, and over magnifications in turn."""
    generator = np.random.default_rng([slides.seed, 3])
    numbers = sorted(FIRST_PATIENT + generator.choice(LAST_PATIENT - FIRST_PATIENT + 1, slides.cases, replace=False))
    fields = distribute_patches(slides.patches, slides.cases, generator)
    subtypes = _choose_subtypes(spread_evenly(slides.cases, generator))
    double = subtypes.index("DC") if slides.cases >= _MIN_CASES else -1
    patients = []
    for index, number in enumerate(numbers):
        first = int(generator.integers(len(MAGNIFICATIONS)))
        turns = [MAGNIFICATIONS[(first + turn) % len(MAGNIFICATIONS)] for turn in range(fields[index])]
        patient = f"{14 + (number % 40 == 0)}-{number}{generator.choice(_LETTERS)}"
        letters = ("DC", "LC") if index == double else (subtypes[index],)
        patients.append(PatientPlan(patient, letters, tuple(turns), (slides.seed, int(number))))
    return patients


def _choose_subtypes(ranks: np.ndarray) -> list[str]:
    """Choose subtypes in the proportions of BreakHis, by the rank of each patient from 0 to 1."""
    ends = np.cumsum(list(_PATIENTS.values())) / sum(_PATIENTS.values())
    letters = list(_PATIENTS)
    return [letters[int(np.searchsorted(ends, rank))] for rank in ranks]
