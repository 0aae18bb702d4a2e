"""Decoding and fitting of single patches; prediction uses the same functions as ingest."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from histopipe.ingest.datasets import MemberRejected
from histopipe.ingest.tiff_pixels import (
    SIGNATURES,
    check_pages,
    decode_unusual,
    layout_of,
    page_size,
    read_pages,
    require_bright,
    require_whole_jpegs,
)

MAX_PIXELS = 4_000_000  # a patch or field of view; larger ones are slides, which are tiled first

MAX_SCANS = 100  # of a JPEG, as libtiff has it: usual are 1 to 10, each may go through all pixels for 14 bytes

MOST_PAGES = 8  # of a TIFF that are looked at

Patch = NDArray[np.uint8]  # (height, width, 3), RGB

_JPEG_START, _JPEG_SCAN = b"\xff\xd8", b"\xff\xda"
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_HEADER_END = 33  # signature and image header
_DEPTH = 24  # where the header tells the bits of a value
_OPAQUE = frozenset({"1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB"})  # but for a transparent colour
_LARGEST_STORED_BLOCK = 0xFFFF
_FAX = frozenset({"tiff_ccitt", "group3", "group4", "tiff_raw_16", "tiff_thunderscan"})  # as Pillow names them


def decode_patch(content: bytes, into: Patch | None = None) -> Patch:
    """Decode an encoded image to RGB.

    Args:
        content: the bytes of a PNG, JPEG, TIFF or BMP file; of its transparent parts, white is seen.
        into: where to put the pixels if they fit, (height, width, 3) uint8; spares a copy.

    Returns:
        Pixels, uint8 (height, width, 3).

    Raises:
        MemberRejected: not an image, damaged, of absurd size, or of pixels whose range nothing tells.
    """
    if _is_plain_png(content):
        return _decode_plain_png(content, into)
    if content[:4] in SIGNATURES:
        return _decode_tiff(content)
    if content[:2] == _JPEG_START and content.count(_JPEG_SCAN) > MAX_SCANS:
        raise MemberRejected("absurdly many scans")
    with _opened(content, ("PNG", "JPEG", "BMP")) as image:
        return _as_rgb(image, content[_DEPTH] if image.format == "PNG" else 8)


def header_size(content: bytes) -> tuple[int, int]:
    """Read an image's width and height from its header; zeros where it has none, of which `decode_patch` says more."""
    if content[:8] == _PNG_SIGNATURE and content[12:16] == b"IHDR":
        return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")
    if content[:4] in SIGNATURES:
        return page_size(read_pages(io.BytesIO(content), 1))
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG", "BMP")) as image:
            return image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # the latter where it is made an error
        return MAX_PIXELS, MAX_PIXELS
    except Exception:  # whatever a decoder makes of hostile bytes
        return 0, 0


@contextmanager
def _opened(content: bytes, formats: tuple[str, ...]) -> Iterator[Image.Image]:
    """Open an image whose size is bearable; whatever goes wrong inside is one unusable member."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what Pillow says of odd metadata, for each image again
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(content), formats=formats) as image:
                _check_size(*image.size)
                yield image
        except MemberRejected:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise MemberRejected("absurd dimensions") from None
        except Exception:  # whatever a decoder makes of hostile bytes
            raise MemberRejected("not a readable image") from None


def _decode_tiff(content: bytes) -> Patch:
    pages = read_pages(io.BytesIO(content), MOST_PAGES)
    if not pages:
        raise MemberRejected("not a readable image")
    layout = layout_of(pages[0])
    check_pages(pages)
    _check_size(layout.width, layout.height)
    if layout.usual:
        with _opened(content, ("TIFF",)) as image:
            _check_packing(image, content)
            return _as_rgb(image, layout.bits)
    colours, alpha, multiplied = decode_unusual(content, layout)
    colours = np.repeat(colours, 3, axis=2) if colours.shape[2] == 1 else colours
    if alpha is None:
        return np.ascontiguousarray(colours)
    pixels = np.concatenate([colours, alpha], axis=2)
    seen = Image.frombytes("RGBa" if multiplied else "RGBA", (pixels.shape[1], pixels.shape[0]), pixels.tobytes())
    return on_white(seen.convert("RGBA"))


def _is_plain_png(content: bytes) -> bool:
    """Eight-bit RGB, not interlaced, not to be turned, opaque: what the archives hold, and the fast decoder is for."""
    usual = content[:8] == _PNG_SIGNATURE and content[12:16] == b"IHDR" and content[24:29] == b"\x08\x02\x00\x00\x00"
    if not usual:
        return False
    start, end = _pixel_stream(content)
    beside = content[_HEADER_END:start] + content[end:]  # looking through the pixels would take a fifth of all the time
    return b"eXIf" not in beside and b"tRNS" not in beside  # an orientation, a transparent colour


def _decode_plain_png(content: bytes, into: Patch | None) -> Patch:
    width, height = struct.unpack(">II", content[16:24])
    _check_size(width, height)
    try:
        target = into if into is not None and into.shape == (height, width, 3) else None
        patch: Patch = imagecodecs.spng_decode(_stored_png(content, height * (1 + 3 * width)), out=target)
    except (RuntimeError, ValueError):
        raise MemberRejected("not a readable image") from None
    return patch


def _stored_png(content: bytes, size: int) -> bytes:
    """The same picture with its `size` bytes of filtered pixels stored rather than deflated.

    libdeflate inflates a patch in half the time that the decoder's zlib takes (22 against 45 us), which is most of the
    decoding. Only the usual form is rewritten: one small block of pixels, the last thing before the end. What else
    such a file holds (time, resolution, text) doesn't touch its pixels. The stream's checksum stays and is checked.
    """
    start, end = _pixel_stream(content)
    if content[end + 4 :] != _PNG_END or size > _LARGEST_STORED_BLOCK:
        return _without_notes(content)
    pixels = imagecodecs.deflate_decode(content[start:end], out=bytearray(size))
    if len(pixels) != size:
        raise ValueError("the pixels don't fill the image")
    block = struct.pack("<BHH", 1, size, _LARGEST_STORED_BLOCK - size)  # RFC 1951, section 3.2.4: stored, the last one
    stream = b"".join((b"IDAT\x78\x01", block, pixels, content[end - 4 : end]))
    length, checksum = struct.pack(">I", len(stream) - 4), struct.pack(">I", zlib.crc32(stream))
    return b"".join((content[:_HEADER_END], length, stream, checksum, _PNG_END))


def _without_notes(content: bytes) -> bytes:
    """The same picture without the chunks that don't touch its pixels, of which the decoder inflates any length.

    Those that do have a capital as their first letter (PNG specification, 5.4).
    """
    kept, start = [content[:_HEADER_END]], _HEADER_END
    while start + 8 <= len(content):
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")
        if content[start + 4 : start + 5].isupper():
            kept.append(content[start:end])
        start = end
    return b"".join(kept)


def _pixel_stream(content: bytes) -> tuple[int, int]:
    """Where the first chunk of pixels starts and ends; beyond the file where it has none."""
    start = _HEADER_END + 8
    while start < len(content):
        end = start + int.from_bytes(content[start - 8 : start - 4], "big")
        if content[start - 4 : start] == b"IDAT":
            return start, end
        start = end + 12  # behind the checksum and the next chunk's own length and name
    return start, start


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise MemberRejected("absurd dimensions")


def _check_packing(image: Image.Image, content: bytes) -> None:
    """Refuse TIFFs of black and white that are packed for fax machines, and JPEG data smaller than the image.

    Of a damaged one libtiff gives whatever lay in memory before, other pixels each time, and no error.
    """
    if image.info.get("compression") in _FAX:
        raise MemberRejected("packed for fax machines")
    if image.info.get("compression") == "jpeg":
        require_whole_jpegs(content)


def _as_rgb(image: Image.Image, depth: int) -> Patch:
    """RGB of eight bits, upright, on white. Colour profiles and gamma are left aside, as trainings always did.

    Args:
        image: as Pillow opens it.
        depth: bits of a value in the file, of which Pillow keeps the upper eight.
    """
    upright = ImageOps.exif_transpose(image)
    if depth != 16 and upright.mode in _OPAQUE and "transparency" not in upright.info:
        return np.asarray(upright.convert("RGB"))
    seen = _as_rgba(upright, depth)
    if depth == 16:
        pixels = np.asarray(seen)
        require_bright(pixels[pixels[..., 3] > 0][:, :3], 255)
    return on_white(seen)


def _as_rgba(image: Image.Image, depth: int) -> Image.Image:
    """With its transparent colour, if any: Pillow compares colours of eight bits with one of the file's own depth."""
    transparent = image.info.get("transparency")
    if image.mode.startswith("I"):  # 16-bit grey: Pillow would clip it to white
        values = np.asarray(image)
        grey, alpha = (values >> 8).astype(np.uint8), np.full(values.shape, 255, np.uint8)
        if transparent is not None:
            alpha[values == transparent] = 0
        return Image.fromarray(np.stack([grey, grey, grey, alpha], axis=-1))
    if depth == 16 and isinstance(transparent, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in transparent)
    if depth in (2, 4) and image.mode == "L" and transparent is not None:
        image.info["transparency"] = transparent * 255 // (2**depth - 1)
    return image.convert("RGBA")


def on_white(seen: Image.Image) -> Patch:
    """RGBA over white, which is what glass looks like: nothing was scanned where a picture is transparent."""
    pixels = np.asarray(seen)
    if pixels[..., 3].min() == 255:
        return np.ascontiguousarray(pixels[..., :3])
    return np.asarray(Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB"))


def pad_patch(patch: Patch, size: tuple[int, int]) -> Patch:
    """Bring a patch cut off at the slide's edge to `size` (height, width) by repeating its last row and column.

    Raises:
        MemberRejected: the patch is larger than `size`.
    """
    missing = (size[0] - patch.shape[0], size[1] - patch.shape[1])
    if missing == (0, 0):
        return patch
    if min(missing) < 0:
        raise MemberRejected("larger than a patch")
    return np.pad(patch, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")


def resize_patch(patch: Patch, size: tuple[int, int], box: tuple[float, float, float, float] | None = None) -> Patch:
    """Resize to `size` (height, width): the mean over each target pixel's area, or bilinear where it grows.

    Args:
        box: the part to resize, left, top, right and bottom, in pixels and parts of them; the whole by default.
    """
    left, top, right, bottom = box or (0, 0, patch.shape[1], patch.shape[0])
    if (bottom - top, right - left) == size and box is None:
        return patch
    shrinks = bottom - top >= size[0] and right - left >= size[1]
    method = Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(patch).resize((size[1], size[0]), method, (left, top, right, bottom)))
