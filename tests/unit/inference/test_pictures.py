"""Pictures of tissue, which a page draws patches over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from histopipe.inference import pictures
from histopipe.inference.pictures import PatchPictures, draw_slide_picture
from histopipe.inference.predicted_slide import PredictedSlide
from histopipe.inference.slides.slide import open_slide
from histopipe.inference.slides.tiles import make_grid
from histopipe.inference.slides.tissue import read_overview
from tests.builders.slides import cut, slide_file, tissue_on_glass


def shown(path: Path) -> np.ndarray:
    """A picture's pixels, once it is seen that it holds nothing else."""
    with Image.open(path) as image:
        assert image.format == "JPEG" and not set(image.info) - {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
        return np.asarray(image).astype(int)


def smooth(height: int, width: int) -> np.ndarray:
    """A slide whose colours tell where on it one is."""
    down, across = np.mgrid[0:height, 0:width]
    return np.stack([across * 200 / width, down * 200 / height, np.full((height, width), 90)], axis=2).astype(np.uint8)


def rows_of(places: pd.DataFrame, case: str = "c") -> list[tuple[Any, ...]]:
    return [(f"{n}.png", case, *place) for n, place in enumerate(places.itertuples(index=False))]


def test_a_slides_picture_shows_the_box_around_its_tiles(tmp_path: Path) -> None:
    pixels = tissue_on_glass()
    tiles = pd.DataFrame({"x": [800, 2000], "y": [400, 1200], "width": 400, "height": 400})
    with open_slide(slide_file(tmp_path / "S.tif", pixels)) as slide:
        seen, grid = read_overview(slide, 400), make_grid(slide, 4.0, (50, 50))
        graded = PredictedSlide("S.1", tiles, grid, seen, slide.pixel, slide.bounds, {})
        found = shown(draw_slide_picture(graded, tmp_path / "tissue"))
    assert found.shape == (480, 640, 3)  # no pixels that the overview doesn't have
    expected = Image.fromarray(pixels).crop((800, 400, 2400, 1600)).resize((640, 480), Image.Resampling.BOX)
    assert np.abs(found - np.asarray(expected)).mean() < 3


@pytest.mark.parametrize("resized", [False, True])
def test_patches_are_put_together_where_they_lie(tmp_path: Path, resized: bool) -> None:
    slide = smooth(490, 630)  # the last row and column of patches is cut off
    patches, places = cut(slide, 50, (1001, 2001))
    if resized:  # each fills the model's size, whatever its own
        sizes = zip(patches, places["width"], places["height"], strict=True)
        whole = [Image.fromarray(patch[:height, :width]).resize((50, 50)) for patch, width, height in sizes]
        patches = np.stack([np.asarray(one) for one in whole])
    kept = PatchPictures(resized)
    rows = rows_of(places)
    kept.add(rows[:40], patches[:40])
    kept.add([*rows[40:], ("x.png", "c", None, None, 50, 50)], np.concatenate([patches[40:], patches[:1]]))
    (path,) = kept.draw(tmp_path)
    found = shown(path)
    assert found.shape == slide.shape
    assert np.abs(found - slide).max() < 20 and np.abs(found - slide).mean() < 3


def test_memory_is_bounded_however_many_patches_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patches, places = cut(smooth(500, 500), 50)
    monkeypatch.setattr(pictures, "MOST", 3 * 100 * 16**2)  # of these patches, 16 pixels of each
    kept, held, drawn = PatchPictures(False), [], []
    for part in range(20):
        kept.add(rows_of(places, f"case {part}"), patches)
        held.append(sum(one.nbytes for one in kept._pixels))
        drawn.append(len(kept.draw(tmp_path / str(part))))
    assert max(held) <= pictures.MOST
    assert drawn == [*range(1, 17), 0, 0, 0, 0]  # 16 times as many have 4 pixels each; beyond, nothing is shown
    assert np.abs(shown(tmp_path / "15/case%2015.jpg") - smooth(500, 500)).mean() < 6


def test_patches_that_tell_no_places_or_absurd_ones_have_no_picture(tmp_path: Path) -> None:
    patches = np.zeros((2, 50, 50, 3), np.uint8)
    for places in ([(None, None)] * 2, [(0, 0), (999_999_999, 0)]):
        kept = PatchPictures(False)
        kept.add([("a.png", "c", *place, 50, 50) for place in places], patches)
        assert kept.draw(tmp_path) == []
