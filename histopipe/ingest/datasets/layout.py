"""The definition of a data set: names, classes, patch size and published counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from histopipe.core.cases.readings import Reading

OTHER_MAGNIFICATION = "other magnification"  # the reason for members that `magnification` doesn't select


class PatchName(NamedTuple):
    """What a member's name states about its patch.

    Attributes:
        case_id: the case.
        label: 1 for the positive class, 0 for the negative one.
        x, y: position in the slide in pixels, None if unknown.
        attributes: values of the data set's further columns, in the order of `Dataset.attributes`.
    """

    case_id: str
    label: int
    x: int | None = None
    y: int | None = None
    attributes: tuple[int | str, ...] = ()


class MemberRejected(Exception):
    """A member that can't be used. Its first argument is the reason, under which `report.json` counts it."""


@dataclass(frozen=True)
class PublishedCounts:
    """The published size of a complete data set.

    Attributes:
        patches: number of patches.
        cases: number of cases.
        positive: number of patches of the positive class.
        distinct_cases: number of cases as read here, if the publication counts them differently.
    """

    patches: int
    cases: int
    positive: int
    distinct_cases: int | None = None


def read_no_case(_: str) -> None:
    """Return None, for a data set whose file names don't state the case."""


@dataclass(frozen=True)
class Dataset:
    """The definition of a data set.

    Attributes:
        name: name in `params.yaml`.
        title: name for people.
        classes: the negative class, then the positive one; sensitivity is the recall of the second.
        patch_size: height and width in pixels of patches in the store.
        image_size: default side in pixels of a network's input; None for the longer side of `patch_size`.
        read_name: parses a member's name; returns None for a member that isn't meant to be a patch and raises
            MemberRejected for one that can't be used.
        read_case: reads the case from a file name without folders, also of a new patch without a label; returns None
            if the name doesn't state it.
        published: counts of the complete set, if known.
        kaggle: the data set's handle on Kaggle.
        resized: whether images of other sizes are resized to `patch_size`. Otherwise smaller ones are padded by
            repeating their edge and larger ones are rejected.
        listed: the file names in the manifest, if there is one. `read_name` then gets the name that the manifest has
            for a member (`histopipe.ingest.datasets.matching`).
        manifest: name of the manifest in messages.
        attributes: types of further columns of the index, by name; `PatchName.attributes` has their values.
        implausible_auc: a ROC AUC by case above this value has always meant a leak so far; None if not known.
        select_magnification: reduces the data set to one magnification, if it has several.
        case_reading: what counts as one case, if several readings are possible (`histopipe.core.cases.readings`).
        change_cases: returns the data set with another reading of its cases, if several are possible.
        mpp: micrometres of tissue per pixel of a patch of `patch_size`; None if not stated.
    """

    name: str
    title: str
    classes: tuple[str, str]
    patch_size: tuple[int, int]
    read_name: Callable[[str], PatchName | None]
    read_case: Callable[[str], str | None] = read_no_case
    published: PublishedCounts | None = None
    kaggle: str | None = None
    image_size: int | None = None
    resized: bool = False
    listed: frozenset[str] | None = None
    manifest: str = "the manifest"
    attributes: Mapping[str, str] = field(default_factory=dict)
    implausible_auc: float | None = None
    select_magnification: Callable[[Dataset, int], Dataset] | None = None
    case_reading: Reading | None = None
    change_cases: Callable[[Dataset, Reading], Dataset] | None = None
    mpp: float | None = None
