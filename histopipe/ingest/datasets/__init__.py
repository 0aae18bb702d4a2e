"""Definitions of data sets: which member of an archive is a patch, its case and its label."""

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


def _load_idc() -> Dataset:
    from histopipe.ingest.datasets.idc import IDC

    return IDC


def _load_malaria() -> Dataset:
    from histopipe.ingest.datasets.malaria import MALARIA

    return MALARIA


def _load_breakhis() -> Dataset:
    from histopipe.ingest.datasets.breakhis import BREAKHIS

    return BREAKHIS


_BUILT_IN: dict[str, Callable[[], Dataset]] = {"breakhis": _load_breakhis, "idc": _load_idc, "malaria": _load_malaria}


def list_datasets() -> list[str]:
    """List the names of the built-in data sets, which need no manifest.

    Example:
        >>> list_datasets()
        ['breakhis', 'idc', 'malaria']
    """
    return sorted(_BUILT_IN)


def get_dataset(name: str, magnification: int | str | None = None, case: Reading | None = None) -> Dataset:
    """Return a built-in data set, or the part of it that `magnification` selects.

    Args:
        name: name of the data set.
        magnification: keep the images of this magnification only; `all` or None keeps all.
        case: what counts as one case, if the data set allows several readings; None for its default.

    Raises:
        KeyError: no such data set is built in.

    Example:
        >>> get_dataset("breakhis", magnification=40).published.patches
        1995
    """
    dataset = _BUILT_IN[name]()
    if case is not None and dataset.change_cases is not None:
        dataset = dataset.change_cases(dataset, case)
    if dataset.select_magnification is None or not isinstance(magnification, int):
        return dataset
    return dataset.select_magnification(dataset, magnification)
