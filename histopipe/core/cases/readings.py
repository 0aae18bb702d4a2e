"""Define how case ids are read where a data set leaves a choice: as biopsies, or as the publishers' patients.

BreakHis' ids end in letters: `14-22549AB`, `14-22549CD` and `14-22549G`. Consecutive pairs are how blocks of one
specimen are named, and all nine numbers that carry several ids are of one class each, which chance would give once in
500. So the accession number is the case (81 ids are 70 cases); the publishers count every id as a patient, and that
reading is an option. One id may mean two things under the two readings, so every list of cases states its reading, and
ids that may be of different readings are compared by accession number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, TypedDict

Reading = Literal["accession", "publisher"]

READINGS: dict[str, tuple[Reading, ...]] = {"breakhis": ("accession", "publisher")}  # by data set, the default first
BEFORE: Reading = "publisher"  # the reading of results from before there was a choice
READING: Final = "case_reading"  # key of a store's report, a split's record, a training's record and an operating point
LISTED_CLASSES = ("negative", "positive")  # of every data set with a manifest, which gives labels but no names

CASE_OF_READING: dict[str, str] = {
    "accession": "an accession number, whatever the letters of its blocks",
    "publisher": "a patient as the publishers count them: ids of one accession number may be in two splits",
}


class ReadingEntry(TypedDict, total=False):
    """The entry for a reading in a record, where its data set has a choice."""

    case_reading: Reading


_ID = re.compile(r"(?P<accession>[0-9]{2}-[0-9]+)[A-Z]*")


def accession_of(case: str) -> str:
    """Return the accession number of a publishers' id: the id without the letters of its blocks.

    Example:
        >>> accession_of("14-22549AB")
        '14-22549'
    """
    match = _ID.fullmatch(case)
    return match["accession"] if match else case


def default_reading(dataset: str) -> Reading | None:
    """Return the default reading of a built-in data set; None where there is no choice."""
    return READINGS[dataset][0] if dataset in READINGS else None


def reading_entry(reading: Reading | None) -> ReadingEntry:
    """Return the entry for a reading in a record; empty where there is no choice."""
    return {"case_reading": reading} if reading else {}


def is_listed(record: Mapping[str, Any]) -> bool:
    """Return whether a record belongs to a data set with a manifest, which may have a built-in data set's name.

    Args:
        record: the record of a store, or an operating point. Other records name no classes, so they aren't recognised.
    """
    classes = record.get("classes") or [record.get("negative_class"), record.get("positive_class")]
    return tuple(classes) == LISTED_CLASSES


def recorded_reading(record: Mapping[str, Any], dataset: str) -> Reading | None:
    """Return the reading that a record was made with; a record without the key is older than the choice.

    Args:
        record: the record of a store, a split or a training, or an operating point.
        dataset: the data set's name.

    Returns:
        The reading; None where there is no choice: for other data sets, and for one with a manifest under that name.
    """
    if dataset not in READINGS or is_listed(record):
        return None
    reading = record.get(READING)
    return next((choice for choice in READINGS[dataset] if choice == reading), BEFORE)


def shared_ids(cases: Iterable[str], dataset: str) -> list[str]:
    """Return ids that mean the same under every reading, for lists that outlive a reading: accession numbers."""
    return [accession_of(case) for case in cases] if dataset in READINGS else list(cases)


def siblings(case: str, ids: Iterable[str]) -> list[str]:
    """Return the other ids with the accession number of `case`, sorted."""
    return sorted({other for other in ids if other != case and accession_of(other) == accession_of(case)})


def match_other_reading(cases: Iterable[str], others: Iterable[str]) -> set[str]:
    """Return the cases that may be one of `others` under the other reading.

    An id without letters is an accession number, which represents all ids that share it. The publishers have such ids
    too, and lists don't distinguish them, so a publishers' `14-14134` counts as its sibling `14-14134E` here: it is
    safer to take one case too many for seen than one too few. `14-22549AB` and `14-22549CD` stay two cases.
    """
    ids = set(others)
    numbers = {accession_of(case) for case in ids}
    return {case for case in cases if (number := accession_of(case)) in (ids if number != case else numbers)}
