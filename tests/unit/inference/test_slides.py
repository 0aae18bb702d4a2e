"""Whole slides: pixel sizes, tissue, tiles that fit a model's patches, outlines of regions."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import openslide
import pytest
import shapely
from PIL import Image

from histopipe.inference.regions import regions
from histopipe.inference.slides import tiles
from histopipe.inference.slides.pixel_size import PixelSize, read_pixel_size
from histopipe.inference.slides.read_ahead import read_ahead
from histopipe.inference.slides.slide import Slide, blend_on_white, is_slide, open_slide, read_bounds
from histopipe.inference.slides.tiles import make_grid, read_tiles, tissue_tiles
from histopipe.inference.slides.tissue import BLOCK, Overview, find_tissue, read_overview
from histopipe.ingest.datasets import MemberRejected, get_dataset
from tests.builders.slides import PINK, slide_file, tissue_on_glass


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({"openslide.mpp-x": "0.499", "openslide.mpp-y": "0.5"}, (0.499, 0.5, "the file")),
        (
            {"tiff.XResolution": "40000", "tiff.YResolution": "20000", "tiff.ResolutionUnit": "centimeter"},
            (0.25, 0.5, "TIFF resolution"),
        ),
        (
            {"tiff.XResolution": "50800", "tiff.YResolution": "50800", "tiff.ResolutionUnit": "inch"},
            (0.5, 0.5, "TIFF resolution"),
        ),
        ({"openslide.objective-power": "40"}, (0.25, 0.25, "the objective's power")),
        (
            {"tiff.ImageDescription": '<Pixels PhysicalSizeX="250" PhysicalSizeXUnit="nm" PhysicalSizeY="0.25"/>'},
            (0.25, 0.25, "OME-XML"),
        ),
        (  # the label and the macro image come after the slide; letters may be spelt out
            {
                "tiff.ImageDescription": "<Image><Pixels PhysicalSizeX='.5' PhysicalSizeXUnit='&#181;m' "
                'PhysicalSizeY="500" PhysicalSizeYUnit="nm"/></Image><Image>'
                '<Pixels PhysicalSizeX="8" PhysicalSizeY="8"/></Image>'
            },
            (0.5, 0.5, "OME-XML"),
        ),
        # what a program writes for want of anything better is passed over
        (
            {
                "tiff.XResolution": "72",
                "tiff.YResolution": "72",
                "tiff.ResolutionUnit": "inch",
                "openslide.objective-power": "20",
            },
            (0.5, 0.5, "the objective's power"),
        ),
        # what a scanner states outright isn't: an overview, beside the power of the objective that saw the whole slide
        (
            {
                "openslide.vendor": "dicom",
                "openslide.mpp-x": "28.969",
                "openslide.mpp-y": "28.968",
                "openslide.objective-power": "40",
            },
            (28.969, 28.968, "the file"),
        ),
        ({"tiff.XResolution": "0", "tiff.YResolution": "0", "tiff.ResolutionUnit": "inch"}, None),
        ({"openslide.mpp-x": "nan", "openslide.mpp-y": "?", "openslide.objective-power": "0"}, None),
        ({}, None),
    ],
)
def test_the_pixel_size_is_the_most_trustworthy_one_stated(
    properties: dict[str, str], expected: tuple[float, float, str] | None
) -> None:
    found = read_pixel_size(properties)
    assert (found is None) == (expected is None)
    if found and expected:
        assert found[:2] == pytest.approx(expected[:2]) and found.source == expected[2]


def test_data_sets_say_how_much_tissue_their_pixels_show() -> None:
    assert get_dataset("idc").mpp == 4.0  # 40x, 0.25 um, made 16 times smaller
    assert [get_dataset("breakhis", power).mpp for power in (40, 400)] == [0.98, 0.1]
    assert get_dataset("breakhis").mpp is None and get_dataset("malaria").mpp is None


def test_large_and_pyramidal_tiffs_are_slides_and_patches_are_not(tmp_path: Path) -> None:
    small = tissue_on_glass()[:600, :600]
    assert is_slide(slide_file(tmp_path / "large.tif", tissue_on_glass()))
    assert is_slide(slide_file(tmp_path / "levels.tiff", small, levels=2))
    assert not is_slide(slide_file(tmp_path / "patch.tif", small))
    Image.fromarray(small).save(tmp_path / "patch.png")
    (tmp_path / "text.tif").write_text("no picture")
    assert not any(is_slide(tmp_path / name) for name in ("patch.png", "text.tif", "gone.svs", "."))


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_tiles_show_the_tissue_at_the_resolution_asked_for(tmp_path: Path, levels: int) -> None:
    """Across, a pixel's colour tells where it lies: each tile must show its own place at its own scale."""
    pixels = np.zeros((1200, 2400, 3), np.uint8)
    pixels[..., 0] = (np.arange(2400) // 10)[None]
    pixels[..., 2] = (np.arange(1200) // 5)[:, None]
    with open_slide(slide_file(tmp_path / "s.tif", pixels, levels)) as slide:
        grid = make_grid(slide, mpp=4.0, patch=(50, 50))
        assert grid.side == (400, 400) and grid.shape == (3, 6)
        every = [grid.tile(column, row) for row in range(3) for column in range(6)]
        read = list(read_tiles(slide, grid, every))
    assert [tile for tile, _ in read] == every
    for tile, patch in read:
        across = tile.left + 8 * np.arange(50) + 3.5
        down = tile.top + 8 * np.arange(50) + 3.5
        np.testing.assert_allclose(patch[25, :, 0], across / 10, atol=1.3)
        np.testing.assert_allclose(patch[:, 25, 2], down / 5, atol=2.1)


def test_a_tile_cut_off_by_the_edge_is_padded_as_ingest_pads(tmp_path: Path) -> None:
    pixels = tissue_on_glass()[400:900, 800:1400]  # tissue all over
    with open_slide(slide_file(tmp_path / "s.tif", pixels)) as slide:
        grid = make_grid(slide, mpp=4.0, patch=(50, 50))
        tile = grid.tile(1, 1)
        (_, patch), *_ = read_tiles(slide, grid, [tile])
    assert tile[2:] == (400, 400, 600, 500)
    assert patch.shape == (50, 50, 3)
    assert (patch[:12, 25:] == patch[:12, 24:25]).all() and (patch[13:] == patch[12:13]).all()


def test_runs_of_tiles_give_what_single_ones_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_slide(slide_file(tmp_path / "s.tif", tissue_on_glass(), levels=2, mpp=0.47)) as slide:
        grid = make_grid(slide, mpp=4.0, patch=(50, 50))
        every = [grid.tile(column, row) for row in range(grid.shape[0]) for column in range(grid.shape[1])]
        in_runs = [patch for _, patch in read_tiles(slide, grid, every)]
        monkeypatch.setattr(tiles, "RUN", 1)
        singly = [patch for _, patch in read_tiles(slide, grid, every)]
    np.testing.assert_array_equal(np.stack(in_runs), np.stack(singly))


def test_background_is_never_read_at_full_resolution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    areas: list[float] = []
    read_around = Slide.read_around

    def counted(slide: Slide, level: int, box: tuple[float, float, float, float]) -> Any:
        if level == 0:
            areas.append((box[2] - box[0]) * (box[3] - box[1]))
        return read_around(slide, level, box)

    monkeypatch.setattr(Slide, "read_around", counted)
    with open_slide(slide_file(tmp_path / "s.tif", tissue_on_glass(2100, 5000), levels=2)) as slide:
        grid = make_grid(slide, mpp=0.5, patch=(100, 100))
        seen = read_overview(slide, 100)
        found = tissue_tiles(grid, seen, find_tissue(seen))
        assert len(list(read_tiles(slide, grid, found))) == 14 * 12
    assert sum(areas) == 1400 * 1200


def test_tissue_is_found_and_glass_dirt_and_borders_are_not(tmp_path: Path) -> None:
    pixels = tissue_on_glass()
    pixels[:60] = 0  # a scanner's black border
    pixels[1900:1950, 200:600] = 120  # dust
    with open_slide(slide_file(tmp_path / "s.tif", pixels, compression="jpeg")) as slide:
        grid = make_grid(slide, mpp=2.0, patch=(50, 50))
        seen = read_overview(slide, 200)
        found = tissue_tiles(grid, seen, find_tissue(seen))
    places = {(tile.left, tile.top) for tile in found}
    assert places == {(x, y) for x in range(800, 2200, 200) for y in range(400, 1600, 200)}


def test_a_slide_full_of_tissue_is_tissue_all_over() -> None:
    pixels = (
        np.random.default_rng(1).integers(0, 255, (300, 300, 3)).astype(np.uint8) // 4 + np.array(PINK, np.uint8) // 2
    )
    assert find_tissue(Overview(pixels.astype(np.uint8), (1, 1))).mean() > 0.9


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.full((300, 300, 3), 245, np.uint8), "no tissue found"),
        (np.repeat(np.random.default_rng(0).integers(0, 255, (300, 300, 1), np.uint8), 3, 2), "a slide without colour"),
    ],
)
def test_a_slide_without_tissue_or_colour_is_told_apart(pixels: np.ndarray, reason: str) -> None:
    with pytest.raises(MemberRejected, match=reason):
        find_tissue(Overview(pixels, (1, 1)))


def test_transparent_background_is_white() -> None:
    region = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    region.putpixel((1, 1), (200, 120, 180, 255))
    seen = blend_on_white(region)
    assert (seen[0, 0] == 255).all() and tuple(seen[1, 1]) == PINK


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.write_bytes(b""), "no slide that OpenSlide can read"),
        (lambda path: Image.new("RGB", (3000, 3000)).save(path, "JPEG"), "no slide that OpenSlide can read"),
        (lambda path: slide_file(path, tissue_on_glass(), mpp=None), "unknown pixel size: give --slide-mpp"),
    ],
)
def test_what_is_no_slide_says_so(tmp_path: Path, make: Callable[[Path], object], reason: str) -> None:
    path = tmp_path / "new.svs"
    make(path)
    with pytest.raises(MemberRejected, match=reason), open_slide(path):
        pass


def test_the_user_may_know_the_pixel_size_better(tmp_path: Path) -> None:
    with open_slide(slide_file(tmp_path / "s.tif", tissue_on_glass(), mpp=0.5), mpp=0.25) as slide:
        assert slide.pixel == (0.25, 0.25, "--slide-mpp")


def test_a_slide_too_coarse_for_the_model_is_refused(tmp_path: Path) -> None:
    with (
        open_slide(slide_file(tmp_path / "s.tif", tissue_on_glass(), mpp=8)) as slide,
        pytest.raises(MemberRejected, match="more coarsely"),
    ):
        make_grid(slide, mpp=4.0, patch=(50, 50))


@pytest.mark.parametrize("size", [(2_000_001, 10), (10, 2_000_001)])
def test_absurd_dimensions_are_refused_when_a_slide_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    path = slide_file(tmp_path / "s.tif", tissue_on_glass())
    monkeypatch.setattr(openslide.OpenSlide, "dimensions", size)
    with pytest.raises(MemberRejected, match="absurd dimensions"), open_slide(path):
        pass


def unreadable(size: tuple[int, int], mpp: float = 0.25) -> Slide:
    """A slide without smaller levels of which only sizes are known."""
    return Slide(cast(openslide.OpenSlide, None), PixelSize(mpp, mpp, "a test"), size, (1.0,), (0, 0, *size))


def test_more_tiles_than_any_slide_has_are_refused() -> None:
    with pytest.raises(MemberRejected, match="absurd dimensions"):
        make_grid(unreadable((2_000_000, 2_000_000)), mpp=0.25, patch=(50, 50))
    assert make_grid(unreadable((400_000, 400_000)), mpp=0.25, patch=(224, 224)).shape == (1786, 1786)


@pytest.mark.parametrize("size", [(2_000_000, 2_000_000), (2_000_000, 700), (3_000, 400_000)])
def test_blocks_of_the_largest_slides_without_smaller_levels_stay_bounded(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    areas: list[float] = []

    def read(slide: Slide, level: int, box: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
        areas.append((box[2] - box[0]) * (box[3] - box[1]))
        if len(areas) == 20:
            raise MemberRejected("enough")
        return np.zeros((*size, 3), np.uint8)

    monkeypatch.setattr(Slide, "read", read)
    with contextlib.suppress(MemberRejected):
        read_overview(unreadable(size), 800)
    assert 0 < max(areas) <= 1.5 * BLOCK**2


def test_nothing_is_asked_of_a_slide_after_a_failed_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSlide then answers every question with the error of the first."""

    def broken(*_: object) -> None:
        raise openslide.OpenSlideError("a tile is damaged")

    with open_slide(slide_file(tmp_path / "s.tif", tissue_on_glass(), levels=2)) as slide:
        for name in ("dimensions", "level_downsamples", "properties"):
            monkeypatch.setattr(openslide.OpenSlide, name, property(broken))
        for name in ("read_region", "get_best_level_for_downsample"):
            monkeypatch.setattr(openslide.OpenSlide, name, broken)
        grid = make_grid(slide, mpp=4.0, patch=(50, 50))
        with pytest.raises(MemberRejected, match="damaged slide"):
            read_overview(slide, 400)
        with pytest.raises(MemberRejected, match="damaged slide"):
            list(read_tiles(slide, grid, [grid.tile(column, 0) for column in range(6)]))


@pytest.mark.parametrize("downsample", [0.5, 1, 3.9, 4, 15, 16, 100])
def test_levels_are_chosen_as_openslide_chooses_them(tmp_path: Path, downsample: float) -> None:
    with open_slide(slide_file(tmp_path / "s.tif", tissue_on_glass(), levels=3)) as slide:
        assert slide.level_for(downsample) == slide.handle.get_best_level_for_downsample(1.01 * downsample)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (("100", "200", "300", "400"), (100, 200, 300, 400)),
        (("100", "200", "3000", "400"), (0, 0, 3000, 2100)),  # beyond the slide
        (("-1", "0", "3", "4"), (0, 0, 3000, 2100)),
        (("a", "0", "3", "4"), (0, 0, 3000, 2100)),
        ((), (0, 0, 3000, 2100)),
    ],
)
def test_bounds_are_the_files_own_if_they_lie_in_the_slide(told: tuple[str, ...], expected: tuple[int, ...]) -> None:
    names = [f"openslide.bounds-{name}" for name in ("x", "y", "width", "height")]
    assert read_bounds(dict(zip(names, told, strict=False)), (3000, 2100)) == expected


@pytest.mark.parametrize("kind", ["grey", "sixteen"])
def test_grey_and_sixteen_bit_slides_are_read_as_eight_bit_colour(tmp_path: Path, kind: str) -> None:
    pixels = tissue_on_glass()
    if kind == "grey":
        path = slide_file(tmp_path / "s.tif", pixels[..., 0], photometric="minisblack")
    else:
        path = slide_file(tmp_path / "s.tif", pixels.astype(np.uint16) * 257)
    with open_slide(path) as slide:
        seen = slide.read(0, (0, 0, 3000, 2100), (21, 30))
    assert seen.dtype == np.uint8 and abs(int(seen[10, 15, 0]) - PINK[0]) < 12


def test_reading_ahead_keeps_the_order_and_few_in_hand() -> None:
    begun, lock = [], threading.Lock()

    def read(part: int) -> int:
        with lock:
            begun.append(part)
        return part * part

    results = read_ahead(read, range(1000))
    assert [next(results) for _ in range(5)] == [0, 1, 4, 9, 16]
    results.close()  # type: ignore[attr-defined]
    assert len(begun) < 50


def filled(cells: np.ndarray) -> np.ndarray:
    """The cells again from the rings of their regions, by the even-odd rule at the middle of every cell."""
    again = np.zeros(cells.shape, int)
    for _, rings in regions(cells):
        inside = np.zeros(cells.shape, bool)
        for ring in rings:
            for (x, y), (right, below) in itertools.pairwise(ring):
                if x == right:
                    inside[min(y, below) : max(y, below), x:] ^= True
        again += inside
    return again


@pytest.mark.parametrize("seed", range(20))
def test_outlines_enclose_exactly_the_regions(seed: int) -> None:
    cells = np.random.default_rng(seed).random((13, 17)) < 0.3 + 0.03 * seed
    np.testing.assert_array_equal(filled(cells), cells.astype(int))
    for places, rings in regions(cells):
        assert all(ring[0] == ring[-1] and len(ring) > 4 for ring in rings)
        areas = [sum(x * b - r * y for (x, y), (r, b) in itertools.pairwise(ring)) / 2 for ring in rings]
        assert areas[0] > 0 and all(area < 0 for area in areas[1:])  # one outline, then holes
        assert sum(areas) == len(places)
        assert shapely.is_valid(shapely.Polygon(rings[0], rings[1:]))
        assert sorted(map(tuple, places)) == sorted(set(map(tuple, places)))


def test_what_a_region_encloses_at_a_corner_is_a_hole() -> None:
    """One ring through that corner twice is no valid polygon."""
    cells = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], bool)
    ((_, rings),) = regions(cells)
    assert rings == [
        [(0, 0), (3, 0), (3, 2), (2, 2), (2, 3), (0, 3), (0, 0)],
        [(1, 1), (1, 2), (2, 2), (2, 1), (1, 1)],
    ]


def test_without_positive_cells_there_is_no_region() -> None:
    assert list(regions(np.zeros((3, 4), bool))) == []
