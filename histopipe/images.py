"""Decoding and fitting of single patches; prediction uses the same functions as ingest."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from histopipe.datasets import MemberRejected

MAX_PIXELS = 4_000_000  # a patch or field of view; larger ones are slides, which are tiled first

MAX_SCANS = 100  # of a JPEG, as libtiff has it: usual are 1 to 10, each may go through all pixels for 14 bytes

Patch = NDArray[np.uint8]  # (height, width, 3), RGB

_JPEG_START, _JPEG_SCAN = b"\xff\xd8", b"\xff\xda"
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_HEADER_END = 33  # signature and image header
_LARGEST_STORED_BLOCK = 0xFFFF
_FAX = frozenset({"tiff_ccitt", "group3", "group4", "tiff_raw_16", "tiff_thunderscan"})  # as Pillow names them


def decode_patch(content: bytes, into: Patch | None = None) -> Patch:
    """Decode an encoded image to RGB.

    Args:
        content: the bytes of a PNG, JPEG, TIFF or BMP file, of any colour mode and depth.
        into: where to put the pixels if they fit, (height, width, 3) uint8; spares a copy.

    Returns:
        Pixels, uint8 (height, width, 3).

    Raises:
        MemberRejected: not an image, damaged, or of absurd size.
    """
    if _is_plain_png(content):
        return _decode_plain_png(content, into)
    if content[:2] == _JPEG_START and content.count(_JPEG_SCAN) > MAX_SCANS:
        raise MemberRejected("absurdly many scans")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what Pillow says of odd metadata, for each image again
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(content), formats=("PNG", "JPEG", "TIFF", "BMP")) as image:
                _check_size(*image.size)
                _check_packing(image)
                return _as_rgb(image)
        except MemberRejected:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise MemberRejected("absurd dimensions") from None
        except Exception:  # whatever a decoder makes of hostile bytes, it is one unusable member
            raise MemberRejected("not a readable image") from None


def _is_plain_png(content: bytes) -> bool:
    """Eight-bit RGB, not interlaced, not to be turned: what the archives hold, and what the fast decoder is for."""
    usual = content[:8] == _PNG_SIGNATURE and content[12:16] == b"IHDR" and content[24:29] == b"\x08\x02\x00\x00\x00"
    return usual and b"eXIf" not in content  # the chunk that may tell an orientation


def _decode_plain_png(content: bytes, into: Patch | None) -> Patch:
    width, height = struct.unpack(">II", content[16:24])
    _check_size(width, height)
    try:
        target = into if into is not None and into.shape == (height, width, 3) else None
        patch: Patch = imagecodecs.spng_decode(_stored_png(content, height * (1 + 3 * width)), out=target)
    except (RuntimeError, ValueError):
        raise MemberRejected("not a readable image") from None
    if patch.shape != (height, width, 3):  # transparency by a tRNS chunk comes back as a fourth channel
        patch = np.ascontiguousarray(patch[..., :3])
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


def _check_packing(image: Image.Image) -> None:
    """Refuse TIFFs of black and white that are packed for fax machines.

    Of a damaged one libtiff gives whatever lay in memory before, other pixels each time, and no error.
    """
    if image.info.get("compression") in _FAX:
        raise MemberRejected("packed for fax machines")


def _as_rgb(image: Image.Image) -> Patch:
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):  # 16-bit grey: PIL would clip it to white
        grey = np.asarray(upright).astype(np.uint32) >> 8
        return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
    return np.asarray(upright.convert("RGB"))


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
