"""What the pipeline needs to know of a data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from histopipe.core.cases.readings import Reading

OTHER_MAGNIFICATION = "other magnification"  # why a member is set aside that `magnification` doesn't ask for


class PatchName(NamedTuple):
    """What a member's name tells of its patch.

    Attributes:
        x, y: place in the slide in pixels, None where unknown.
        attributes: what else the name tells, one value for each of the data set's `attributes`.
    """

    case_id: str
    label: int
    x: int | None = None
    y: int | None = None
    attributes: tuple[int | str, ...] = ()


class MemberRejected(Exception):
    """A member that can't be used; its first argument says why, in a few words that reports count by."""


@dataclass(frozen=True)
class PublishedCounts:
    """Size of the complete data set, as published.

    Attributes:
        distinct_cases: how many cases there are as they are read here, where the publication counts otherwise.
    """

    patches: int
    cases: int
    positive: int
    distinct_cases: int | None = None


def no_case(_: str) -> None:
    """Tell no case: names of such a data set may be any."""


@dataclass(frozen=True)
class Dataset:
    """A data set's names, classes and patch size.

    Attributes:
        classes: the negative class, then the positive one; sensitivity is the recall of the second.
        patch_size: height and width in pixels at which the store keeps patches.
        image_size: side in pixels at which networks see the patches, where a recipe doesn't say otherwise; by default
            the longer side of `patch_size`.
        read_name: what a member's name says; None for a member that is no patch and isn't meant to be one.
            Raises MemberRejected for one that can't be used.
        read_case: the case that a patch's own name tells, whatever folder it lies in, also of new patches
            without a label; None where it tells none.
        published: counts of the complete set, where they are known.
        kaggle: the data set's handle on Kaggle.
        resized: whether other sizes are resized to `patch_size`; otherwise smaller patches are padded by
            repeating their edge and larger ones are set aside.
        listed: names that ought to be in the archive, where a manifest says so; `read_name` is then asked for the name
            that the manifest has for a member (`histopipe.ingest.datasets.matching`).
        manifest: what messages call that manifest.
        attributes: further columns of the index by name, each with its type: what `PatchName.attributes` holds.
        implausible_auc: a ROC AUC by case above it has so far always meant a leak; None where nothing is known.
        at_magnification: gives the part of such a set that was taken at one magnification, where there are several.
        case_reading: what counts as one case, where names leave a choice (`histopipe.core.cases.readings`).
        with_cases: gives such a set with its cases read in another way, where there are several.
        mpp: micrometres of tissue to a pixel of a patch of `patch_size`; None where nobody says.
    """

    name: str
    title: str
    classes: tuple[str, str]
    patch_size: tuple[int, int]
    read_name: Callable[[str], PatchName | None]
    read_case: Callable[[str], str | None] = no_case
    published: PublishedCounts | None = None
    kaggle: str | None = None
    image_size: int | None = None
    resized: bool = False
    listed: frozenset[str] | None = None
    manifest: str = "the manifest"
    attributes: Mapping[str, str] = field(default_factory=dict)
    implausible_auc: float | None = None
    at_magnification: Callable[[Dataset, int], Dataset] | None = None
    case_reading: Reading | None = None
    with_cases: Callable[[Dataset, Reading], Dataset] | None = None
    mpp: float | None = None
