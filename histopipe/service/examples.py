"""Patches to try the page with, drawn by the project itself: they say nothing of tissue."""

from __future__ import annotations

import base64
import io
import math
import zipfile
from functools import lru_cache

from histopipe.ingest.synthetic.drawings import get_drawing
from histopipe.ingest.synthetic.plan import SyntheticSlides, list_drawn

CASES, EACH = 2, 3  # cases drawn, and patches shown of each class
SEED = 7
CASE_PATCHES = 300  # of the case that is drawn whole
PLACED = "idc"  # the data set whose drawn patches tell their places


def draw_examples(dataset: str, classes: tuple[str, str]) -> list[dict[str, str]]:
    """A few patches of each class; none of a data set that isn't drawn.

    Args:
        dataset: in whose likeness.
        classes: names of the negative and the positive class.

    Returns:
        Entries with `name`, `drawn_as` (the class) and `image` (PNG in base64).
    """
    if dataset not in list_drawn():
        return []
    from histopipe.ingest.datasets import get_dataset

    drawing, reader = get_drawing(dataset), get_dataset(dataset)
    slides = SyntheticSlides(CASES, CASES * math.ceil(4 * EACH), False, SEED, dataset)
    found: tuple[list[dict[str, str]], list[dict[str, str]]] = ([], [])
    for plan in drawing.plan_cases(slides):
        for name, content in drawing.draw_case(plan).members:
            patch = reader.read_name(name)
            if patch is not None and len(found[patch.label]) < EACH:
                image = base64.b64encode(content).decode()
                entry = {"name": name.rpartition("/")[2], "drawn_as": classes[patch.label], "image": image}
                found[patch.label].append(entry)
    return [*found[0], *found[1]]


@lru_cache(maxsize=1)
def draw_case() -> bytes:
    """A zip with one drawn case, whole, whose map can be seen."""
    drawing, stream = get_drawing(PLACED), io.BytesIO()
    slides = SyntheticSlides(1, CASE_PATCHES, False, SEED, PLACED)
    with zipfile.ZipFile(stream, "w") as archive:
        for plan in drawing.plan_cases(slides):
            for name, content in drawing.draw_case(plan).members:
                archive.writestr(name, content)
    return stream.getvalue()
