"""Registry of the data sets that can be drawn, each by its own module."""

from __future__ import annotations

from collections.abc import Callable

from histopipe.ingest.synthetic.drawing import Drawing


def _idc() -> Drawing:
    from histopipe.ingest.synthetic.idc.members import DRAWING

    return DRAWING


def _malaria() -> Drawing:
    from histopipe.ingest.synthetic.malaria.members import DRAWING

    return DRAWING


def _breakhis() -> Drawing:
    from histopipe.ingest.synthetic.breakhis.members import DRAWING

    return DRAWING


_DRAWINGS: dict[str, Callable[[], Drawing]] = {"idc": _idc, "malaria": _malaria, "breakhis": _breakhis}


def drawing_of(dataset: str) -> Drawing:
    """Return the drawing of a data set.

    Raises:
        KeyError: the data set can't be drawn.
    """
    return _DRAWINGS[dataset]()
