"""Registry of the data sets that can be drawn, each by its own module."""

from __future__ import annotations

from collections.abc import Callable

from histopipe.ingest.synthetic.drawing import Drawing


def _load_idc() -> Drawing:
    from histopipe.ingest.synthetic.idc.members import DRAWING

    return DRAWING


def _load_malaria() -> Drawing:
    from histopipe.ingest.synthetic.malaria.members import DRAWING

    return DRAWING


def _load_breakhis() -> Drawing:
    from histopipe.ingest.synthetic.breakhis.members import DRAWING

    return DRAWING


_DRAWINGS: dict[str, Callable[[], Drawing]] = {"idc": _load_idc, "malaria": _load_malaria, "breakhis": _load_breakhis}


def get_drawing(dataset: str) -> Drawing:
    """Return the drawing of a data set.

    Raises:
        KeyError: the data set can't be drawn.
    """
    return _DRAWINGS[dataset]()
