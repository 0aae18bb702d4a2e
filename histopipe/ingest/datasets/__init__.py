"""Data sets: which member of an archive is a patch, of which case, with which label."""

from __future__ import annotations

from collections.abc import Callable

from histopipe.core.cases.readings import Reading
from histopipe.ingest.datasets.layout import OTHER_MAGNIFICATION, Dataset, MemberRejected, PatchName, PublishedCounts

__all__ = [
    "OTHER_MAGNIFICATION",
    "Dataset",
    "MemberRejected",
    "PatchName",
    "PublishedCounts",
    "get_dataset",
    "list_datasets",
]


def _idc() -> Dataset:
    from histopipe.ingest.datasets.idc import IDC

    return IDC


def _malaria() -> Dataset:
    from histopipe.ingest.datasets.malaria import MALARIA

    return MALARIA


def _breakhis() -> Dataset:
    from histopipe.ingest.datasets.breakhis import BREAKHIS

    return BREAKHIS


_KNOWN: dict[str, Callable[[], Dataset]] = {"breakhis": _breakhis, "idc": _idc, "malaria": _malaria}


def list_datasets() -> list[str]:
    """Names of the data sets that need no manifest."""
    return sorted(_KNOWN)


def get_dataset(name: str, magnification: int | str | None = None, case: Reading | None = None) -> Dataset:
    """Return the data set called `name`, or a part or another reading of it.

    Args:
        name: of a built-in data set.
        magnification: at which the part was taken that is meant; the whole for `all` and None.
        case: what counts as one case, where names leave a choice; the data set's default for None.

    Raises:
        KeyError: no such data set is built in.
    """
    dataset = _KNOWN[name]()
    if case is not None and dataset.with_cases is not None:
        dataset = dataset.with_cases(dataset, case)
    if dataset.at_magnification is None or not isinstance(magnification, int):
        return dataset
    return dataset.at_magnification(dataset, magnification)
