"""How each data set is drawn: the four things that differ between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from histopipe.synthetic.plan import SyntheticSlides


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
        most_cases: as many as there are ids.
        nested_folder: where Kaggle's archive holds its second copy; None where it holds none.
        member_bytes: bytes one patch takes in the archive, rounded up.
        patches_per_worker: about as many as are drawn while another process starts.
    """

    plan_cases: Callable[[SyntheticSlides], list[Any]]
    draw_case: Callable[[Any], DrawnCase]
    most_cases: int
    nested_folder: str | None
    member_bytes: int
    patches_per_worker: int


def _idc() -> Drawing:
    from histopipe.synthetic.idc.members import DRAWING

    return DRAWING


def _malaria() -> Drawing:
    from histopipe.synthetic.malaria.members import DRAWING

    return DRAWING


def _breakhis() -> Drawing:
    from histopipe.synthetic.breakhis.members import DRAWING

    return DRAWING


_DRAWINGS: dict[str, Callable[[], Drawing]] = {"idc": _idc, "malaria": _malaria, "breakhis": _breakhis}


def list_drawn() -> list[str]:
    """Names of the data sets in whose layout archives are drawn."""
    return list(_DRAWINGS)


def drawing_of(dataset: str) -> Drawing:
    """How the data set is drawn.

    Raises:
        KeyError: it isn't.
    """
    return _DRAWINGS[dataset]()
