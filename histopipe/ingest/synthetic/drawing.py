"""How an archive is drawn: the things that differ between data sets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from histopipe.ingest.synthetic.plan import SyntheticSlides


@dataclass(frozen=True)
class DrawnCase:
    """One case ready to be written: members by name, and what was counted while they were drawn."""

    members: list[tuple[str, bytes]]
    positive: int
    undersized: int
    nested: bool


@dataclass(frozen=True)
class Drawing:
    """How one data set's archive is drawn.

    Attributes:
        plan_cases: what each case is; in order, and decided before anything is drawn.
        draw_case: draws one of the plans. A function of a module, which worker processes load; the same plan gives
            the same bytes in each.
        nested_folder: where Kaggle's archive holds its second copy; None where it holds none.
        member_bytes: bytes one patch takes in the archive, rounded up.
        patches_per_worker: about as many as are drawn while another process starts.
    """

    plan_cases: Callable[[SyntheticSlides], list[Any]]
    draw_case: Callable[[Any], DrawnCase]
    nested_folder: str | None
    member_bytes: int
    patches_per_worker: int
