"""The drawing of an archive: what differs between data sets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from histopipe.ingest.synthetic.plan import SyntheticSlides


@dataclass(frozen=True)
class DrawnCase:
    """A drawn case.

    Attributes:
        members: name and content of each member of the archive.
        positive: number of positive patches.
        undersized: number of patches that are cut off at the slide's edge.
        nested: whether the archive contains the case a second time, in the nested folder.
    """

    members: list[tuple[str, bytes]]
    positive: int
    undersized: int
    nested: bool


@dataclass(frozen=True)
class Drawing:
    """The functions and sizes with which one data set is drawn.

    Attributes:
        plan_cases: plans all cases, in order, before anything is drawn.
        draw_case: draws one planned case. It is a function of a module, so that worker processes can load it, and
            returns the same bytes for the same plan in each.
        nested_folder: folder of the second copy in Kaggle's archive; None if it has no second copy.
        member_bytes: bytes of a patch in the archive, rounded up.
        patches_per_worker: about the number of patches that one process draws while another starts.
    """

    plan_cases: Callable[[SyntheticSlides], list[Any]]
    draw_case: Callable[[Any], DrawnCase]
    nested_folder: str | None
    member_bytes: int
    patches_per_worker: int
