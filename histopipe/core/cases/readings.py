"""What counts as one case where a data set's names leave a choice: the biopsy, or the publishers' patient.

BreakHis' ids end in letters: `14-22549AB`, `14-22549CD` and `14-22549G`. Consecutive pairs are how blocks of one
specimen are named, and all nine numbers that carry several ids are of one class each, which chance would give once in
500. So the accession number is the case (81 ids are 70 cases); the publishers count every id as a patient, and that
reading is an option. One id may mean two things under the two readings, so whatever lists cases says which one it
follows, and ids that may be of unlike readings are compared by accession number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, TypedDict

Reading = Literal["accession", "publisher"]

READINGS: dict[str, tuple[Reading, ...]] = {"breakhis": ("accession", "publisher")}  # by data set, the default first
BEFORE: Reading = "publisher"  # of what was made before there was a choice
READING: Final = "case_reading"  # key of a store's report, a split's record, a training's record and an operating point
LISTED_CLASSES = ("negative", "positive")  # of every data set of a user's own: a manifest gives labels, no names

CASE_OF_READING: dict[str, str] = {
    "accession": "an accession number, whatever the letters of its blocks",
    "publisher": "a patient as the publishers count them: ids of one accession number may stand in two splits",
}


class ReadingEntry(TypedDict, total=False):
    """What a record holds of a reading, where its data set has a choice."""

    case_reading: Reading


_ID = re.compile(r"(?P<accession>[0-9]{2}-[0-9]+)[A-Z]*")


def accession_of(case: str) -> str:
    """Return the accession number of a publishers' id, that is the id without the letters of its blocks.

    Example:
        >>> accession_of("14-22549AB")
        '14-22549'
    """
    match = _ID.fullmatch(case)
    return match["accession"] if match else case


def default_reading(dataset: str) -> Reading | None:
    """Return the reading of a built-in data set where nothing else is asked for; None where there is no choice."""
    return READINGS[dataset][0] if dataset in READINGS else None


def reading_entry(reading: Reading | None) -> ReadingEntry:
    """Return what records hold of a reading; nothing where there is no choice."""
    return {"case_reading": reading} if reading else {}


def is_listed(record: Mapping[str, Any]) -> bool:
    """Tell whether a record is of a data set of the user's own, which may have a built-in one's name.

    Args:
        record: of a store, or an operating point; others name no classes, and tell nothing.
    """
    classes = record.get("classes") or [record.get("negative_class"), record.get("positive_class")]
    return tuple(classes) == LISTED_CLASSES


def recorded_reading(record: Mapping[str, Any], dataset: str) -> Reading | None:
    """Return the reading that a record was made with; one without the key is older than the choice.

    Args:
        record: of a store, a split or a training, or an operating point.
        dataset: the data set's name.

    Returns:
        None where there is no choice: of other data sets, and of one of the user's own under that name.
    """
    if dataset not in READINGS or is_listed(record):
        return None
    reading = record.get(READING)
    return next((known for known in READINGS[dataset] if known == reading), BEFORE)


def shared_ids(cases: Iterable[str], dataset: str) -> list[str]:
    """Return the ids that mean the same under every reading, for lists that outlive one: accession numbers."""
    return [accession_of(case) for case in cases] if dataset in READINGS else list(cases)


def siblings(case: str, ids: Iterable[str]) -> list[str]:
    """Return the other ids with the accession number of `case`, sorted."""
    return sorted({other for other in ids if other != case and accession_of(other) == accession_of(case)})


def read_unlike(cases: Iterable[str], known: Iterable[str]) -> set[str]:
    """Return those of `cases` that may be a known case under the other reading.

    An id without letters is an accession number, which stands for all ids that share it. The publishers have such ids
    too; lists don't tell them apart, so a publishers' `14-14134` counts as its sibling `14-14134E` here: better one
    case too many is taken for seen than one too few. `14-22549AB` and `14-22549CD` stay two.
    """
    known = set(known)
    numbers = {accession_of(case) for case in known}
    return {case for case in cases if (number := accession_of(case)) in (known if number != case else numbers)}
