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

Patch = NDArray[np.uint8]  # (height, width, 3), RGB

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_PIXELS = 41  # where they start behind signature and header, if no other chunk comes between
_LARGEST_STORED_BLOCK = 0xFFFF


def decode_patch(content: bytes) -> Patch:
    """Decode an encoded image to RGB.

    Args:
        content: the bytes of a PNG, JPEG, TIFF or BMP file, of any colour mode and depth.

    Returns:
        Pixels, uint8 (height, width, 3).

    Raises:
        MemberRejected: not an image, damaged, or of absurd size.
    """
    if _is_plain_png(content):
        return _decode_plain_png(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(content), formats=("PNG", "JPEG", "TIFF", "BMP")) as image:
                _check_size(*image.size)
                return _as_rgb(image)
        except MemberRejected:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise MemberRejected("absurd dimensions") from None
        except Exception:  # whatever a decoder makes of hostile bytes, it is one unusable member
            raise MemberRejected("not a readable image") from None


def _is_plain_png(content: bytes) -> bool:
    """Eight-bit RGB, not interlaced: what the archives hold, and what the fast decoder is for."""
    return content[:8] == _PNG_SIGNATURE and content[12:16] == b"IHDR" and content[24:29] == b"\x08\x02\x00\x00\x00"


def _decode_plain_png(content: bytes) -> Patch:
    width, height = struct.unpack(">II", content[16:24])
    _check_size(width, height)
    try:
        patch: Patch = imagecodecs.spng_decode(_stored_png(content, height * (1 + 3 * width)))
    except (RuntimeError, ValueError):
        raise MemberRejected("not a readable image") from None
    if patch.shape != (height, width, 3):  # transparency by a tRNS chunk comes back as a fourth channel
        patch = np.ascontiguousarray(patch[..., :3])
    return patch


def _stored_png(content: bytes, size: int) -> bytes:
    """The same PNG with its `size` bytes of filtered pixels stored rather than deflated.

    libdeflate inflates a patch in half the time that the decoder's zlib takes (22 against 45 us), which is most of the
    decoding. Only the usual form is rewritten: one small block of pixels between header and end. The stream's checksum
    stays in place and is checked.
    """
    end = _PIXELS + int.from_bytes(content[_PIXELS - 8 : _PIXELS - 4], "big")
    usual = content[_PIXELS - 4 : _PIXELS] == b"IDAT" and content[end + 4 :] == _PNG_END
    if not usual or size > _LARGEST_STORED_BLOCK:
        return content
    pixels = imagecodecs.deflate_decode(content[_PIXELS:end], out=bytearray(size))
    if len(pixels) != size:
        raise ValueError("the pixels don't fill the image")
    block = struct.pack("<BHH", 1, size, _LARGEST_STORED_BLOCK - size)  # RFC 1951, section 3.2.4: stored, the last one
    stream = b"".join((b"IDAT\x78\x01", block, pixels, content[end - 4 : end]))
    length, checksum = struct.pack(">I", len(stream) - 4), struct.pack(">I", zlib.crc32(stream))
    return b"".join((content[: _PIXELS - 8], length, stream, checksum, _PNG_END))


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise MemberRejected("absurd dimensions")


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


def resize_patch(patch: Patch, size: tuple[int, int]) -> Patch:
    """Resize to `size` (height, width): the mean over each target pixel's area, or bilinear where it grows."""
    if patch.shape[:2] == size:
        return patch
    shrinks = patch.shape[0] >= size[0] and patch.shape[1] >= size[1]
    method = Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(patch).resize((size[1], size[0]), method))
