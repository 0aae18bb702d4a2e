"""Data sets: which member of an archive is a patch, of which case, with which label."""

from __future__ import annotations

from collections.abc import Callable

from histopipe.datasets.layout import OTHER_MAGNIFICATION, Dataset, MemberRejected, PatchName, PublishedCounts

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
    from histopipe.datasets.idc import IDC

    return IDC


def _malaria() -> Dataset:
    from histopipe.datasets.malaria import MALARIA

    return MALARIA


def _breakhis() -> Dataset:
    from histopipe.datasets.breakhis import BREAKHIS

    return BREAKHIS


_KNOWN: dict[str, Callable[[], Dataset]] = {"breakhis": _breakhis, "idc": _idc, "malaria": _malaria}


def list_datasets() -> list[str]:
    """Names of the data sets that need no manifest."""
    return sorted(_KNOWN)


def get_dataset(name: str, magnification: int | str | None = None) -> Dataset:
    """The data set called `name`, or the part of it that was taken at one magnification (`all` and None: the whole).

    Raises:
        KeyError: no such data set is built in.
    """
    whole = _KNOWN[name]()
    if whole.at_magnification is None or not isinstance(magnification, int):
        return whole
    return whole.at_magnification(magnification)
