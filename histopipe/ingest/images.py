"""Decoding and resizing of single images; prediction uses the same functions as ingest."""

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
    decode_uncommon,
    get_first_page_size,
    parse_layout,
    read_pages,
    require_bright,
    require_whole_jpegs,
)

MAX_PIXELS = 4_000_000  # of a patch or field of view; larger images are slides, which are tiled first

MAX_SCANS = 100  # of a JPEG, as in libtiff: 1 to 10 are usual, and a scan of 14 bytes may cover all pixels

MAX_PAGES = 8  # pages of a TIFF that are checked

Patch = NDArray[np.uint8]  # (height, width, 3), RGB

_JPEG_START, _JPEG_SCAN = b"\xff\xd8", b"\xff\xda"
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_HEADER_END = 33  # signature and image header
_DEPTH = 24  # position of the bit depth in the header
_OPAQUE = frozenset({"1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB"})  # unless they have a transparent colour
_LARGEST_STORED_BLOCK = 0xFFFF
_FAX = frozenset({"tiff_ccitt", "group3", "group4", "tiff_raw_16", "tiff_thunderscan"})  # as Pillow names them


def decode_patch(content: bytes, into: Patch | None = None) -> Patch:
    """Decode an image file to RGB pixels.

    Args:
        content: content of a PNG, JPEG, TIFF or BMP file. Transparent parts become white.
        into: optional array, uint8 (height, width, 3), that receives the pixels if they fit, which saves a copy.

    Returns:
        Pixels, uint8 (height, width, 3).

    Raises:
        MemberRejected: the content is no image, damaged, absurdly large, or has pixels of unknown range.

    Example:
        >>> decode_patch(Path("patch.png").read_bytes()).shape
        (50, 50, 3)
    """
    if _is_plain_png(content):
        return _decode_plain_png(content, into)
    if content[:4] in SIGNATURES:
        return _decode_tiff(content)
    if content[:2] == _JPEG_START and content.count(_JPEG_SCAN) > MAX_SCANS:
        raise MemberRejected("too many scans")
    with _open_image(content, ("PNG", "JPEG", "BMP")) as image:
        return _convert_to_rgb(image, content[_DEPTH] if image.format == "PNG" else 8)


def read_header_size(content: bytes) -> tuple[int, int]:
    """Read an image's width and height from its header, or return zeros if it has none.

    `decode_patch` raises the error that explains what is wrong.
    """
    if content[:8] == _PNG_SIGNATURE and content[12:16] == b"IHDR":
        return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")
    if content[:4] in SIGNATURES:
        return get_first_page_size(read_pages(io.BytesIO(content), 1))
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG", "BMP")) as image:
            return image.size
    except (
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ):  # the warning where it is turned into an error
        return MAX_PIXELS, MAX_PIXELS
    except Exception:  # decoders raise anything for hostile bytes
        return 0, 0


@contextmanager
def _open_image(content: bytes, formats: tuple[str, ...]) -> Iterator[Image.Image]:
    """Open an image of acceptable size and turn every error in the block into MemberRejected."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Pillow warns of odd metadata in every image
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(content), formats=formats) as image:
                _check_size(*image.size)
                yield image
        except MemberRejected:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise MemberRejected("absurd dimensions") from None
        except Exception:  # decoders raise anything for hostile bytes
            raise MemberRejected("not a readable image") from None


def _decode_tiff(content: bytes) -> Patch:
    pages = read_pages(io.BytesIO(content), MAX_PAGES)
    if not pages:
        raise MemberRejected("not a readable image")
    layout = parse_layout(pages[0])
    check_pages(pages)
    _check_size(layout.width, layout.height)
    if layout.is_common:
        with _open_image(content, ("TIFF",)) as image:
            _check_compression(image, content)
            return _convert_to_rgb(image, layout.bits)
    colours, alpha, premultiplied = decode_uncommon(content, layout)
    colours = np.repeat(colours, 3, axis=2) if colours.shape[2] == 1 else colours
    if alpha is None:
        return np.ascontiguousarray(colours)
    pixels = np.concatenate([colours, alpha], axis=2)
    image = Image.frombytes("RGBa" if premultiplied else "RGBA", (pixels.shape[1], pixels.shape[0]), pixels.tobytes())
    return blend_on_white(image.convert("RGBA"))


def _is_plain_png(content: bytes) -> bool:
    """Return whether a PNG is 8-bit RGB, not interlaced, upright and opaque.

    The published archives consist of such files, and the fast decoder reads no others.
    """
    is_rgb = content[:8] == _PNG_SIGNATURE and content[12:16] == b"IHDR" and content[24:29] == b"\x08\x02\x00\x00\x00"
    if not is_rgb:
        return False
    start, end = _find_pixel_chunk(content)
    other_chunks = content[_HEADER_END:start] + content[end:]  # searching the pixels too would take 20 % of the time
    return b"eXIf" not in other_chunks and b"tRNS" not in other_chunks  # an orientation, a transparent colour


def _decode_plain_png(content: bytes, into: Patch | None) -> Patch:
    width, height = struct.unpack(">II", content[16:24])
    _check_size(width, height)
    try:
        target = into if into is not None and into.shape == (height, width, 3) else None
        patch: Patch = imagecodecs.spng_decode(_store_pixels(content, height * (1 + 3 * width)), out=target)
    except (RuntimeError, ValueError):
        raise MemberRejected("not a readable image") from None
    return patch


def _store_pixels(content: bytes, size: int) -> bytes:
    """Rewrite a PNG so that its `size` bytes of filtered pixels are stored uncompressed.

    Inflating takes most of the decoding time, and libdeflate takes half as long for a patch as the decoder's zlib (22
    instead of 45 us). Only the common form is rewritten: one small chunk of pixels right before the end. The other
    chunks of such a file (time, resolution, text) don't affect its pixels. The stream's checksum is kept and verified.
    """
    start, end = _find_pixel_chunk(content)
    if content[end + 4 :] != _PNG_END or size > _LARGEST_STORED_BLOCK:
        return _drop_ancillary_chunks(content)
    pixels = imagecodecs.deflate_decode(content[start:end], out=bytearray(size))
    if len(pixels) != size:
        raise ValueError("the pixels don't fill the image")
    block = struct.pack("<BHH", 1, size, _LARGEST_STORED_BLOCK - size)  # RFC 1951, section 3.2.4: stored, final
    stream = b"".join((b"IDAT\x78\x01", block, pixels, content[end - 4 : end]))
    length, checksum = struct.pack(">I", len(stream) - 4), struct.pack(">I", zlib.crc32(stream))
    return b"".join((content[:_HEADER_END], length, stream, checksum, _PNG_END))


def _drop_ancillary_chunks(content: bytes) -> bytes:
    """Remove the chunks of a PNG that don't affect its pixels, which the decoder would inflate to any length.

    The names of chunks that do start with a capital letter (PNG specification, 5.4).
    """
    kept, start = [content[:_HEADER_END]], _HEADER_END
    while start + 8 <= len(content):
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")
        if content[start + 4 : start + 5].isupper():
            kept.append(content[start:end])
        start = end
    return b"".join(kept)


def _find_pixel_chunk(content: bytes) -> tuple[int, int]:
    """Return the start and end of the first chunk of pixels, both beyond the file if it has none."""
    start = _HEADER_END + 8
    while start < len(content):
        end = start + int.from_bytes(content[start - 8 : start - 4], "big")
        if content[start - 4 : start] == b"IDAT":
            return start, end
        start = end + 12  # after the checksum and the length and name of the next chunk
    return start, start


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise MemberRejected("absurd dimensions")


def _check_compression(image: Image.Image, content: bytes) -> None:
    """Check that a TIFF isn't compressed in a format of fax machines, and that its JPEG data is as large as the image.

    For a damaged one, libtiff returns uninitialised memory instead of an error: other pixels each time.
    """
    if image.info.get("compression") in _FAX:
        raise MemberRejected("unsupported fax compression")
    if image.info.get("compression") == "jpeg":
        require_whole_jpegs(content)


def _convert_to_rgb(image: Image.Image, depth: int) -> Patch:
    """Convert an image to 8-bit RGB, upright and on white. Colour profiles and gamma are ignored, as in training.

    Args:
        image: the image as Pillow opens it.
        depth: bits per value in the file, of which Pillow keeps the upper eight.
    """
    upright = ImageOps.exif_transpose(image)
    if depth != 16 and upright.mode in _OPAQUE and "transparency" not in upright.info:
        return np.asarray(upright.convert("RGB"))
    rgba = _convert_to_rgba(upright, depth)
    if depth == 16:
        pixels = np.asarray(rgba)
        require_bright(pixels[pixels[..., 3] > 0][:, :3], 255)
    return blend_on_white(rgba)


def _convert_to_rgba(image: Image.Image, depth: int) -> Image.Image:
    """Convert an image to RGBA, with its transparent colour if it has one.

    The transparent colour is scaled first: Pillow compares 8-bit pixels with a colour of the file's own depth.
    """
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


def blend_on_white(image: Image.Image) -> Patch:
    """Blend an RGBA image with white, the colour of empty glass, since nothing was scanned where it is transparent."""
    pixels = np.asarray(image)
    if pixels[..., 3].min() == 255:
        return np.ascontiguousarray(pixels[..., :3])
    return np.asarray(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB"))


def pad_patch(patch: Patch, size: tuple[int, int]) -> Patch:
    """Pad a patch that is cut off at the slide's edge to `size` (height, width) with its last row and column.

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
    """Resize a patch: to the mean over each new pixel's area if it shrinks, bilinearly if it grows.

    Args:
        patch: pixels, uint8 (height, width, 3).
        size: new height and width.
        box: the part to resize as left, top, right, bottom, in pixels and fractions of them; all of it by default.
    """
    left, top, right, bottom = box or (0, 0, patch.shape[1], patch.shape[0])
    if (bottom - top, right - left) == size and box is None:
        return patch
    shrinks = bottom - top >= size[0] and right - left >= size[1]
    method = Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(patch).resize((size[1], size[0]), method, (left, top, right, bottom)))
