"""Data sets: which member of an archive is a patch, of which case, with which label."""

from __future__ import annotations

from collections.abc import Callable

from histopipe.datasets.layout import Dataset, MemberRejected, PatchName, PublishedCounts

__all__ = ["Dataset", "MemberRejected", "PatchName", "PublishedCounts", "get_dataset", "list_datasets"]


def _idc() -> Dataset:
    from histopipe.datasets.idc import IDC

    return IDC


_KNOWN: dict[str, Callable[[], Dataset]] = {"idc": _idc}


def list_datasets() -> list[str]:
    """Names of the data sets that need no manifest."""
    return sorted(_KNOWN)


def get_dataset(name: str) -> Dataset:
    """The data set called `name`.

    Raises:
        KeyError: no such data set is built in.
    """
    return _KNOWN[name]()
