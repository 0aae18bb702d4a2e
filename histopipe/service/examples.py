"""Synthetic patches to try the service with; they say nothing about real tissue."""

from __future__ import annotations

import base64
import io
import math
import zipfile
from functools import lru_cache

from histopipe.ingest.synthetic.drawings import get_drawing
from histopipe.ingest.synthetic.plan import SyntheticSlides, list_drawn

CASES, PATCHES_PER_CLASS = 2, 3  # cases drawn, and patches of each class that are shown
SEED = 7
CASE_PATCHES = 300  # of the case that is drawn whole
PLACED = "idc"  # the data set whose synthetic patches have positions


def make_examples(dataset: str, classes: tuple[str, str]) -> list[dict[str, str]]:
    """Draw a few patches of each class of a data set.

    Args:
        dataset: name of the data set that the patches imitate.
        classes: names of the negative and the positive class.

    Returns:
        Entries with `name`, `drawn_as` (the class) and `image` (PNG in base64); none if the data set can't be drawn.
    """
    if dataset not in list_drawn():
        return []
    from histopipe.ingest.datasets import get_dataset

    drawing, reader = get_drawing(dataset), get_dataset(dataset)
    slides = SyntheticSlides(CASES, CASES * math.ceil(4 * PATCHES_PER_CLASS), False, SEED, dataset)
    examples: tuple[list[dict[str, str]], list[dict[str, str]]] = ([], [])
    for plan in drawing.plan_cases(slides):
        for name, content in drawing.draw_case(plan).members:
            patch = reader.read_name(name)
            if patch is not None and len(examples[patch.label]) < PATCHES_PER_CLASS:
                image = base64.b64encode(content).decode()
                entry = {"name": name.rpartition("/")[2], "drawn_as": classes[patch.label], "image": image}
                examples[patch.label].append(entry)
    return [*examples[0], *examples[1]]


@lru_cache(maxsize=1)
def draw_case() -> bytes:
    """Draw one whole case whose patches have positions; return it as a zip archive."""
    drawing, stream = get_drawing(PLACED), io.BytesIO()
    slides = SyntheticSlides(1, CASE_PATCHES, False, SEED, PLACED)
    with zipfile.ZipFile(stream, "w") as archive:
        for plan in drawing.plan_cases(slides):
            for name, content in drawing.draw_case(plan).members:
                archive.writestr(name, content)
    return stream.getvalue()
