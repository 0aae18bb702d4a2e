"""Decoding: the fast way gives the pixels of the slow one, and damage is noticed."""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from histopipe.ingest.datasets import MemberRejected
from histopipe.ingest.images import _store_pixels, decode_patch
from tests.builders.images import chunk, png


def slow(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


@pytest.mark.parametrize("size", [(50, 50), (50, 1), (1, 50), (1, 1), (148, 147), (149, 149), (300, 200)])
@pytest.mark.parametrize("level", [0, 1, 9])
def test_every_size_and_compression_decodes_alike(size: tuple[int, int], level: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=level)
    assert np.array_equal(decode_patch(buffer.getvalue()), pixels)


def test_smooth_pictures_use_every_filter_and_decode_alike() -> None:
    row, column = np.mgrid[0:50, 0:50]
    for step in range(1, 40):
        pixels = np.stack([row * step, column * step, (row + column) * step], axis=-1).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
        assert np.array_equal(decode_patch(buffer.getvalue()), slow(buffer.getvalue()))


def test_chunks_beside_the_pixels_change_nothing() -> None:
    from PIL.PngImagePlugin import PngInfo

    notes = PngInfo()
    notes.add_text("scanner", "Aperio")
    picture = Image.fromarray(np.full((50, 50, 3), 7, np.uint8))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", pnginfo=notes, dpi=(300, 300))
    assert (decode_patch(buffer.getvalue()) == 7).all()
    assert b"scanner" in buffer.getvalue()
    assert b"scanner" not in _store_pixels(buffer.getvalue(), 50 * 151)


def test_pixels_in_several_chunks_are_left_to_the_decoder() -> None:
    content = png()
    start, end = content.index(b"IDAT"), content.index(b"IEND") - 8
    pixels = content[start + 4 : end]
    halves = (b"IDAT" + pixels[:1000], b"IDAT" + pixels[1000:])
    chunks = [struct.pack(">I", len(half) - 4) + half + struct.pack(">I", zlib.crc32(half)) for half in halves]
    split = content[: start - 4] + b"".join(chunks) + content[-12:]
    assert _store_pixels(split, 50 * 151) == split
    assert np.array_equal(decode_patch(split), slow(content))


@pytest.mark.parametrize("place", [20, 45, 500, 3000, -20, -14])
def test_a_flipped_bit_never_gives_other_pixels(place: int) -> None:
    content = bytearray(png())
    content[place] ^= 4
    try:
        patch = decode_patch(bytes(content))
    except MemberRejected:
        return
    assert np.array_equal(patch, slow(png()))  # the bit lay where pixels don't depend on it


@pytest.mark.parametrize("kept", [0, 8, 20, 33, 41, 100, -12, -1])
def test_a_cut_image_is_refused_or_whole(kept: int) -> None:
    content = png()[:kept]
    try:
        patch = decode_patch(content)
    except MemberRejected:
        return
    assert np.array_equal(patch, slow(png()))


@pytest.mark.parametrize(("name", "start"), [(b"zTXt", b"a\0\0"), (b"iCCP", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0")])
def test_notes_that_inflate_to_much_take_no_memory(name: bytes, start: bytes) -> None:
    """The decoder would inflate them; also in a picture whose pixels are too many to be rewritten for it."""
    content = png(200, 300)
    notes = chunk(name, start + zlib.compress(bytes(2**20)))
    noted = content[:33] + notes + content[33:]
    assert _store_pixels(noted, 200 * 901) == content
    assert np.array_equal(decode_patch(noted), slow(content))


def test_a_jpeg_of_endless_scans_is_refused() -> None:
    """Each of 14 bytes may go through all pixels again: a member of 16 MB would take three quarters of an hour."""
    buffer = io.BytesIO()
    Image.new("L", (400, 400), 90).save(buffer, "JPEG", progressive=True)
    content = buffer.getvalue()
    last = content[content.rindex(b"\xff\xda") : -2]
    assert decode_patch(content[:-2] + last * 20 + content[-2:]).shape == (400, 400, 3)
    with pytest.raises(MemberRejected, match="too many scans"):
        decode_patch(content[:-2] + last * 100 + content[-2:])


@pytest.mark.parametrize("packing", ["tiff_ccitt", "group3", "group4"])
def test_pictures_packed_for_fax_machines_are_refused(packing: str) -> None:
    """Damaged ones decode to other pixels each time."""
    buffer = io.BytesIO()
    Image.new("1", (50, 50)).save(buffer, "TIFF", compression=packing)
    with pytest.raises(MemberRejected, match="fax"):
        decode_patch(buffer.getvalue())


def test_odd_metadata_is_not_complained_of(recwarn: pytest.WarningsRecorder) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (50, 50)).save(buffer, "TIFF")
    with suppress(MemberRejected):
        decode_patch(buffer.getvalue().replace(struct.pack("<HHI", 256, 4, 1), struct.pack("<HHI", 256, 4, 21)))
    assert not recwarn.list
