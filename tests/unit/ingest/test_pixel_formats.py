"""Pixels of every kind that files hold: one answer of all readers, or a reason, and never black in place of either."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from histopipe.inference.slides.slide import open_slide
from histopipe.inference.slides.tissue import read_overview
from histopipe.ingest.datasets import MemberRejected
from histopipe.ingest.images import decode_patch
from histopipe.ingest.tiff_pixels import FLOATING, SEVERAL_PAGES, SIGNED, TOO_DARK, UNEXPLAINED
from tests.builders.images import chunk
from tests.builders.pixel_formats import EMPTY_UPPER_BITS, PINK, PNGS, SIDE, SMALL, inked_jpeg, png_of, wide, with_alpha

GREY = PINK[..., 1]
HALF = np.full((SIDE, SIDE, 1), 128, np.uint8)
CLEAR = np.zeros((SIDE, SIDE, 4), np.uint8)  # what tools write where nothing was scanned
HALVED = np.round(PINK * (128 / 255)).astype(np.uint8)
LARGEST, SMALLEST, MOST, ORIENTATION = 341, 340, 281, 274

RGB, DARK_IS_ZERO, WHITE_IS_ZERO = ({"photometric": name} for name in ("rgb", "minisblack", "miniswhite"))
UNASSOCIATED, ASSOCIATED, UNSPECIFIED = (
    {"photometric": "rgb", "extrasamples": [name]} for name in ("unassalpha", "assocalpha", "unspecified")
)


def stated(tag: int, value: float, kind: int = 3, count: int = 1) -> dict[str, Any]:
    """A tag of a TIFF; kinds: 3 a short, 11 a float."""
    return {"extratags": [(tag, kind, count, value if count == 1 else (value,) * count, True)]}


def tiff(pixels: np.ndarray, **options: Any) -> bytes:
    """Tiled, as slides are, with a pixel size."""
    stream = io.BytesIO()
    usual = {"tile": (256, 256), "metadata": None, "resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(stream, pixels, **(usual | options))
    return stream.getvalue()


def as_slide(content: bytes, folder: Path) -> np.ndarray:
    """The pixels that a slide's tiles would be cut from."""
    path = folder / "slide.tif"
    path.write_bytes(content)
    with open_slide(path) as slide:
        read_overview(slide, 64)
        return slide.read(0, (0, 0, *slide.size), (SIDE, SIDE))


def answers(content: bytes, folder: Path) -> list[np.ndarray | str]:
    """What a patch and a slide of these bytes are read as: pixels, or a reason."""
    told: list[np.ndarray | str] = []
    for read in (decode_patch, lambda content: as_slide(content, folder)):
        try:
            told.append(read(content))
        except MemberRejected as reason:
            told.append(str(reason))
    return told


WHITE = np.full_like(PINK, 255)
GREYS = np.repeat(GREY[..., None], 3, axis=2)
BLENDED = np.asarray(
    Image.alpha_composite(Image.new("RGBA", (SIDE, SIDE), "white"), Image.fromarray(with_alpha(PINK, HALF))).convert(
        "RGB"
    )
)


@pytest.mark.parametrize(
    ("pixels", "options", "expected"),
    [
        pytest.param(PINK, RGB, PINK, id="rgb"),
        pytest.param(np.moveaxis(PINK, 2, 0), RGB | {"planarconfig": "separate"}, PINK, id="separate planes"),
        pytest.param(GREY, DARK_IS_ZERO, GREYS, id="grey"),
        pytest.param(255 - GREY, WHITE_IS_ZERO, GREYS, id="white is zero"),
        pytest.param(wide(GREY), DARK_IS_ZERO, GREYS, id="16-bit grey"),
        pytest.param(65535 - wide(GREY), WHITE_IS_ZERO, GREYS, id="16-bit white is zero"),
        pytest.param(wide(PINK), RGB, PINK, id="16-bit rgb"),
        pytest.param(wide(PINK), RGB | {"bigtiff": True}, PINK, id="16-bit rgb, BigTIFF"),
        pytest.param(
            np.moveaxis(wide(PINK, 256), 2, 0), RGB | {"planarconfig": "separate"}, PINK, id="16-bit separate planes"
        ),
        pytest.param(CLEAR, UNASSOCIATED, WHITE, id="transparent"),
        pytest.param(CLEAR, ASSOCIATED, WHITE, id="transparent, multiplied"),
        pytest.param(with_alpha(PINK, HALF), UNASSOCIATED, BLENDED, id="half transparent"),
        pytest.param(with_alpha(HALVED, HALF), ASSOCIATED, BLENDED, id="half transparent, multiplied"),
        pytest.param(
            255 - with_alpha(PINK, np.full_like(HALF, 255)),
            {"photometric": "separated", "planarconfig": "contig"},
            PINK,
            id="cmyk",
        ),
        pytest.param(GREY >> 4, DARK_IS_ZERO | {"bitspersample": 4}, (GREYS >> 4) * 17, id="4 bits"),
    ],
)
def test_patch_and_slide_show_what_the_file_says(
    tmp_path: Path, pixels: np.ndarray, options: dict[str, Any], expected: np.ndarray
) -> None:
    patch, slide = answers(tiff(pixels, **options), tmp_path)
    assert isinstance(patch, np.ndarray) and isinstance(slide, np.ndarray), (patch, slide)
    np.testing.assert_allclose(patch.astype(int), expected, atol=1)
    np.testing.assert_allclose(slide.astype(int), expected, atol=1)


@pytest.mark.parametrize(
    ("pixels", "options", "reason"),
    [
        pytest.param(wide(PINK, 16), RGB, TOO_DARK, id="12 bits in 16"),
        pytest.param(wide(PINK, 64), RGB, TOO_DARK, id="14 bits in 16, of dark tissue"),
        pytest.param(wide(PINK, 1), RGB, TOO_DARK, id="0 to 255 in 16"),
        pytest.param(wide(GREY, 16), DARK_IS_ZERO, TOO_DARK, id="12 bits in 16, grey"),
        pytest.param(GREY.astype(np.int16) * 100, DARK_IS_ZERO, SIGNED, id="signed"),
        pytest.param(PINK.astype(np.int16) - 128, RGB, SIGNED, id="signed rgb, with negatives"),
        pytest.param((GREY / 255).astype(np.float32), DARK_IS_ZERO, FLOATING, id="floats of 0..1"),
        pytest.param((PINK / 255).astype(np.float32), RGB, FLOATING, id="rgb floats of 0..1"),
        pytest.param(PINK.astype(np.float32), RGB, FLOATING, id="floats of 0..255"),
        pytest.param((PINK / 255).astype(np.float16), RGB, FLOATING, id="half floats"),
        pytest.param(np.full_like(GREY, np.nan, np.float64), DARK_IS_ZERO, FLOATING, id="no numbers"),
        pytest.param((GREY / 2).astype(np.int8), DARK_IS_ZERO, "unusual depth", id="signed bytes"),
        pytest.param(GREY.astype(np.complex64), DARK_IS_ZERO, "complex", id="complex"),
        pytest.param(with_alpha(with_alpha(PINK, HALF), HALF), RGB | {"planarconfig": "contig"}, "channels", id="five"),
        pytest.param(PINK, DARK_IS_ZERO | {"planarconfig": "contig"}, "channels", id="three stains of a microscope"),
        pytest.param(with_alpha(PINK, HALF), UNSPECIFIED, UNEXPLAINED, id="a fourth channel without a word"),
        pytest.param(
            GREY,
            {"photometric": "palette", "colormap": np.repeat(np.arange(256, dtype=np.uint16)[None], 3, axis=0)},
            "colour map",
            id="colour map of 8 bits",
        ),
    ],
)
def test_pixels_whose_meaning_is_not_stated_are_set_aside_by_both(
    tmp_path: Path, pixels: np.ndarray, options: dict[str, Any], reason: str
) -> None:
    patch, slide = answers(tiff(pixels, **options), tmp_path)
    assert isinstance(patch, str) and reason in patch
    assert isinstance(slide, str) and slide == patch


@pytest.mark.parametrize(
    ("pixels", "options"),
    [
        pytest.param(wide(PINK, 16), RGB | stated(MOST, 4095, count=3), id="12 bits in 16, stated"),
        pytest.param(wide(PINK, 16), RGB | stated(LARGEST, 4095, count=3), id="12 bits in 16, stated in the other tag"),
        pytest.param(wide(PINK, 1), RGB | stated(LARGEST, 255, count=3), id="8 bits in 16, stated"),
        pytest.param(wide(PINK, 16), RGB | {"bitspersample": 12}, id="12 bits packed"),
        pytest.param(wide(PINK, 4), RGB | {"bitspersample": 10}, id="10 bits packed"),
        pytest.param(PINK.astype(np.int16) * 128, RGB | stated(LARGEST, 32767, 8, 3), id="signed, stated"),
        pytest.param(wide(PINK), RGB | {"byteorder": ">"}, id="big end first"),
        pytest.param(PINK.astype(np.uint32) * 2**24, RGB, id="32-bit whole numbers"),
        pytest.param((PINK / 255).astype(np.float32), RGB | stated(LARGEST, 1.0, 11, 3), id="floats, stated"),
        pytest.param(PINK.astype(np.float32), RGB | stated(LARGEST, 255.0, 11, 3), id="floats to 255, stated"),
        pytest.param(with_alpha(PINK, HALF | 255), UNSPECIFIED, id="a fourth channel that hides nothing"),
    ],
)
def test_patches_are_scaled_by_what_the_file_states(
    tmp_path: Path, pixels: np.ndarray, options: dict[str, Any]
) -> None:
    """OpenSlide can't: the same as a slide is set aside."""
    patch, slide = answers(tiff(pixels, **options), tmp_path)
    assert isinstance(patch, np.ndarray), patch
    np.testing.assert_allclose(patch.astype(int), PINK, atol=1)
    assert isinstance(slide, str)


@pytest.mark.parametrize(
    ("pixels", "kind", "expected"),
    [
        pytest.param(with_alpha(PINK, HALF), UNASSOCIATED, BLENDED, id="half transparent"),
        pytest.param(with_alpha(HALVED, HALF), ASSOCIATED, BLENDED, id="half transparent, multiplied"),
        pytest.param(CLEAR, UNASSOCIATED, WHITE, id="transparent"),
    ],
)
def test_transparency_of_sixteen_bits(
    tmp_path: Path, pixels: np.ndarray, kind: dict[str, Any], expected: np.ndarray
) -> None:
    """On white it can't be told whether upper bits are empty, so that a slide of that kind is set aside."""
    patch, slide = answers(tiff(wide(pixels), **kind), tmp_path)
    np.testing.assert_allclose(np.asarray(patch, int), expected, atol=1)
    assert isinstance(slide, str) and "16 bits" in slide
    if pixels.any():
        with pytest.raises(MemberRejected, match=TOO_DARK):
            decode_patch(tiff(wide(pixels, 16), **kind))


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.5, 1.5])
def test_numbers_beyond_the_stated_range_are_set_aside(value: float) -> None:
    pixels = np.full((50, 50), 0.5, np.float32)
    pixels[3, 3] = value
    with pytest.raises(MemberRejected, match="beyond the range"):
        decode_patch(tiff(pixels, **DARK_IS_ZERO, **stated(LARGEST, 1.0, 11), tile=None))


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("times", [1, 257])
def test_patches_are_turned_upright_and_slides_to_be_turned_are_set_aside(
    tmp_path: Path, orientation: int, times: int
) -> None:
    """OpenSlide turns each tile by itself, so that a slide would be scrambled."""
    pixels = np.random.default_rng(0).integers(0, 255, (256, 512, 3), np.uint8)
    pixels[0, 0] = 255
    turned = tiff(pixels.astype(np.uint8 if times == 1 else np.uint16) * times, **RGB, **stated(274, orientation))
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(pixels).save(stream, "PNG", exif=exif)
    patch, slide = answers(turned, tmp_path)
    np.testing.assert_array_equal(patch, decode_patch(stream.getvalue()))
    assert isinstance(slide, str) and "turned" in slide


def test_a_stack_is_set_aside_and_smaller_copies_are_not() -> None:
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        for _ in range(3):
            writer.write(PINK, photometric="rgb", metadata=None)
    with pytest.raises(MemberRejected, match=SEVERAL_PAGES):
        decode_patch(stream.getvalue())
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        writer.write(PINK, photometric="rgb", metadata=None)
        writer.write(PINK[::2, ::2], photometric="rgb", metadata=None)  # a thumbnail that doesn't say so
        writer.write(GREY > 70, photometric="minisblack", metadata=None, subfiletype=5)  # a mask
    assert np.array_equal(decode_patch(stream.getvalue()), PINK)


@pytest.mark.parametrize(("content", "expected"), PNGS)
def test_pngs_of_every_depth_and_transparency(content: bytes, expected: np.ndarray) -> None:
    """`tests/model/tracking/test_served.py` holds the served model to the same."""
    np.testing.assert_array_equal(decode_patch(content), expected)
    np.testing.assert_array_equal(decode_patch(content, np.zeros((4, 8, 3), np.uint8)), expected)


@pytest.mark.parametrize("content", EMPTY_UPPER_BITS)
def test_pngs_that_leave_their_upper_bits_empty_are_set_aside(content: bytes) -> None:
    """PNG scales values to the full range whatever `sBIT` says: such a file breaks that rule, or is black."""
    with pytest.raises(MemberRejected, match=TOO_DARK):
        decode_patch(content)


def test_cmyk_jpegs_that_adobe_inverted_show_their_colours() -> None:
    np.testing.assert_allclose(decode_patch(inked_jpeg(True))[8, 8].astype(int), [200, 120, 180], atol=4)


def test_colour_profiles_and_gamma_change_nothing() -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    notes = chunk(b"gAMA", struct.pack(">I", 100_000)), chunk(b"iCCP", b"a\0\0" + zlib.compress(profile))
    rows = SMALL.reshape(4, -1)
    assert np.array_equal(decode_patch(png_of(rows, 8, 2)), decode_patch(png_of(rows, 8, 2, *notes)))
    jpegs = io.BytesIO(), io.BytesIO()
    for stream, options in zip(jpegs, ({}, {"icc_profile": profile}), strict=True):
        Image.fromarray(PINK[:16, :16]).save(stream, "JPEG", quality=95, **options)
    assert np.array_equal(*(decode_patch(stream.getvalue()) for stream in jpegs))


def test_a_transparent_bitmap_is_white() -> None:
    header = struct.pack("<IiiHHIIiiII", 108, 8, 4, 1, 32, 3, 128, 0, 0, 0, 0)
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"sRGB" + bytes(48)
    bitmap = b"BM" + struct.pack("<IHHI", 14 + 108 + 128, 0, 0, 14 + 108) + header + masks + bytes(128)
    assert (decode_patch(bitmap) == 255).all()


def test_jpeg_data_smaller_than_the_tiff_says_are_refused() -> None:
    """libtiff leaves what lay in memory before in the columns that the JPEG data lack."""
    stream = io.BytesIO()
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 255, (24, 16, 3), np.uint8))
    picture.save(stream, "TIFF", compression="jpeg")
    content = stream.getvalue()
    assert decode_patch(content).shape == (24, 16, 3)
    width = struct.pack("<HHI", 256, 4, 1), struct.pack("<HHI", 256, 3, 1)
    place = max(content.find(entry) for entry in width)
    assert content[place + 8 : place + 10] == b"\x10\x00"
    with pytest.raises(MemberRejected, match="not a readable image"):
        decode_patch(content[: place + 8] + b"\x18\x00" + content[place + 10 :])
