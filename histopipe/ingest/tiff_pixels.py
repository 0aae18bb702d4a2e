"""Reader of unusual TIFF pixels as 8-bit RGB; the same rules hold for patches and whole slides.

TIFF allows pixels that viewers show differently: 12 bits in 16, floats, signed numbers, several kinds of transparency.
They are read if the file states their range and meaning, else rejected with the reason. A guess would give black
patches, for which a network predicts as readily as for any others.
"""

from __future__ import annotations

import io
import logging
import math
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from histopipe.ingest.datasets import MemberRejected

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: BigTIFF
UNREADABLE = "not a readable image"
TOO_DARK = "pixels of 16 or 32 bits that use less than a quarter of them: convert them to 8 bits"
FLOATING = "floating-point pixels of unknown range: convert them to 8 bits"
SIGNED = "signed pixels of unknown range: convert them to 8 bits"
UNEXPLAINED = "a channel that is neither colour nor declared as transparency: remove it, or save it as transparency"
SEVERAL_PAGES = "a stack of several pages: save each as an image of its own"

Tags = Mapping[int, tuple[Any, ...]]
Pixels = NDArray[np.uint8]
Alpha = Literal["associated", "unassociated", "unexplained"]

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION, _SAMPLES = 256, 257, 258, 259, 262, 274, 277
_MIN, _MAX, _PLANAR, _COLOUR_MAP, _INKS = 280, 281, 284, 320, 332
_EXTRA, _FORMAT, _SMALLEST, _LARGEST = 338, 339, 340, 341
_KIND, _OLD_KIND = 254, 255  # of a page: a smaller copy, a mask, one of several pages
_TAGS = frozenset(
    {_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION, _SAMPLES, _MIN, _MAX, _PLANAR, _COLOUR_MAP}
    | {_INKS, _EXTRA, _FORMAT, _SMALLEST, _LARGEST, _KIND, _OLD_KIND}
)
_TYPES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 11: "f", 12: "d", 13: "I", 16: "Q", 17: "q"}
_MAX_ENTRIES = 4096  # of a page; 10 to 40 are usual
_COMPRESSIONS = frozenset({1, 5, 8, 32946, 32773, 34925, 50000})  # none, LZW, deflate, PackBits, LZMA, Zstandard
_JPEG = frozenset({7})
_MAX_CHUNK = 20_000_000  # values of a strip or tile: the largest patch with transparency
_ROWS = 64  # rows that are converted to 8 bits at a time
_MAX_VALUES = 3 * 2**16  # of a tag: a 16-bit colour map

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _INK, _YCBCR, _LAB = 0, 1, 2, 3, 5, 6, 8
_COLOURS = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _PALETTE: 1, _INK: 4, _YCBCR: 3, _LAB: 3}
_DEPTHS_ABOVE_8 = (10, 12, 14, 16, 32)  # bits of integers that tifffile reads
_TURNS = {2: (0, True), 3: (2, False), 4: (2, True), 5: (1, True), 6: (3, False), 7: (3, True), 8: (1, False)}


def read_pages(stream: BinaryIO, limit: int) -> list[Tags]:
    """Read the tags that describe the pixels of a TIFF's first pages.

    Args:
        stream: the file.
        limit: maximum number of pages to read.

    Returns:
        Values by tag for each page, up to the first damaged one. The list is empty if the file is no TIFF.
    """
    stream.seek(0)
    start = stream.read(16)
    if start[:4] not in SIGNATURES:
        return []
    order, big = "<" if start[:2] == b"II" else ">", start[2:4] in (b"+\0", b"\0+")
    pages: list[Tags] = []
    try:
        (offset,) = struct.unpack_from(f"{order}Q" if big else f"{order}I", start, 8 if big else 4)
        while offset and len(pages) < limit:
            tags, offset = _read_page(stream, offset, order, big)
            pages.append(tags)
    except (struct.error, OSError, ValueError, OverflowError):
        pass  # the decoder reports the damage
    return pages


def _read_page(stream: BinaryIO, offset: int, order: str, big: bool) -> tuple[Tags, int]:
    stream.seek(offset)
    count_size, entry_size, offset_code = (8, 20, "Q") if big else (2, 12, "I")
    (count,) = struct.unpack(f"{order}{'Q' if big else 'H'}", stream.read(count_size))
    if count > _MAX_ENTRIES:
        raise ValueError("absurdly many tags")
    entries = stream.read(count * entry_size)
    (following,) = struct.unpack(f"{order}{offset_code}", stream.read(8 if big else 4))
    tags: dict[int, tuple[Any, ...]] = {}
    for start in range(0, count * entry_size, entry_size):
        tag, kind, length = struct.unpack_from(f"{order}HH{offset_code}", entries, start)
        if tag in _TAGS and kind in _TYPES and 0 < length <= _MAX_VALUES:
            form = f"{order}{length}{_TYPES[kind]}"
            field = entries[start + (12 if big else 8) : start + entry_size]
            if struct.calcsize(form) > len(field):
                stream.seek(struct.unpack(f"{order}{offset_code}", field)[0])
                field = stream.read(struct.calcsize(form))
            tags.setdefault(tag, struct.unpack_from(form, field))
    return tags, following


@dataclass(frozen=True)
class Layout:
    """The pixel layout of a page.

    Attributes:
        width, height: size as stored, before the page is rotated upright.
        bits: bits per value.
        numbers: number format by TIFF's code: 1 unsigned, 2 signed, 3 floating-point.
        photometric: colour space by TIFF's code.
        colours: number of colour values per pixel.
        alpha: kind of the transparency; None if there is none.
        maximum: value of full intensity, if the file states one that isn't the largest possible value.
        orientation: orientation by Exif's code; 1 is upright.
        separate: whether each channel is stored separately.
    """

    width: int
    height: int
    bits: int
    numbers: int
    photometric: int
    colours: int
    alpha: Alpha | None
    maximum: float | None
    orientation: int
    separate: bool

    @property
    def is_common(self) -> bool:
        """Return whether image libraries agree on the pixels: at most 8 bits, and no unusual transparency."""
        grey = self.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO)
        common_alpha = self.alpha is None or self.alpha == "unassociated" or (self.alpha == "associated" and not grey)
        return self.bits <= 8 and common_alpha


def parse_layout(tags: Tags) -> Layout:
    """Parse the pixel layout of a page from its tags.

    Raises:
        MemberRejected: the layout can't be read reliably; the reason says why.
    """
    bits, numbers = set(tags.get(_BITS, (1,))), set(tags.get(_FORMAT, (1,)))
    photometric, samples = _get_first(tags, _PHOTOMETRIC, -1), _get_first(tags, _SAMPLES, 1)
    if len(bits) > 1 or len(numbers) > 1:
        raise MemberRejected("channels of different depths: convert them to 8 bits")
    if photometric not in _COLOURS or (photometric == _INK and _get_first(tags, _INKS, 1) != 1):
        raise MemberRejected("colours of an unusual kind: convert them to RGB")
    depth, colours = bits.pop(), _COLOURS[photometric]
    kind = {4: 1}.get(number := numbers.pop(), number)  # 4: undefined, in practice unsigned
    _check_numbers(depth, kind, photometric)
    if photometric == _PALETTE and 0 < max(tags.get(_COLOUR_MAP, (0,))) < 256:
        raise MemberRejected("a colour map of 8 bits where TIFF has 16: convert it to RGB")
    return Layout(
        width=_get_first(tags, _WIDTH, 0),
        height=_get_first(tags, _HEIGHT, 0),
        bits=depth,
        numbers=kind,
        photometric=photometric,
        colours=colours,
        alpha=_parse_alpha(samples - colours, tags.get(_EXTRA, ()), photometric),
        maximum=_find_stated_maximum(tags, depth, kind),
        orientation=_get_first(tags, _ORIENTATION, 1),
        separate=_get_first(tags, _PLANAR, 1) == 2 and samples > 1,
    )


def _get_first(tags: Tags, tag: int, default: int) -> int:
    return int(tags.get(tag, (default,))[0])


def _check_numbers(bits: int, kind: int, photometric: int) -> None:
    plain = photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB)
    readable = {1: (1, 2, 4, 8, *_DEPTHS_ABOVE_8), 2: (16, 32), 3: (16, 32, 64)}
    if kind not in readable:
        raise MemberRejected("complex pixels: convert them to 8 bits")
    if bits not in readable[kind] or (not plain and (bits > 8 or kind != 1)):
        raise MemberRejected("pixels of an unusual depth: convert them to 8 bits")


def _parse_alpha(extra_channels: int, extra: tuple[Any, ...], photometric: int) -> Alpha | None:
    if extra_channels == 0:
        return None
    if extra_channels != 1 or photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB):
        raise MemberRejected("more or fewer channels than its colours have: save it as RGB")
    kinds: dict[int, Alpha] = {1: "associated", 2: "unassociated"}
    return kinds.get(int(extra[0]) if extra else 0, "unexplained")


def _find_stated_maximum(tags: Tags, bits: int, kind: int) -> float | None:
    """Return the value of full intensity if the file states one that can be a scale, else None.

    TIFF defines these tags as statistics. Unless the value is a power of two minus one, or 1 for floats, it may just
    be the brightest pixel.
    """
    if any(value != 0 for tag in (_SMALLEST, _MIN) for value in tags.get(tag, ())):
        return None
    stated = {float(value) for value in tags.get(_LARGEST, tags.get(_MAX, ()))}
    scales = {float(2**power - 1) for power in range(8, 33)} | ({1.0} if kind == 3 else set())
    if len(stated) != 1 or not stated <= scales or (kind == 1 and stated == {2.0**bits - 1}):
        return None
    return stated.pop()


def get_first_page_size(pages: list[Tags]) -> tuple[int, int]:
    """Return the width and height of the first page, or zeros if there is none."""
    tags = pages[0] if pages else {}
    return _get_first(tags, _WIDTH, 0), _get_first(tags, _HEIGHT, 0)


def check_pages(pages: list[Tags]) -> None:
    """Check that a TIFF isn't a stack: further pages of the same size that aren't copies or masks of the first.

    Raises:
        MemberRejected: the TIFF is a stack.
    """
    size = [pages[0].get(tag) for tag in (_WIDTH, _HEIGHT)]
    for page in pages[1:]:
        copy = _get_first(page, _KIND, 0) & 0b101 or _get_first(page, _OLD_KIND, 1) == 2
        if not copy and [page.get(tag) for tag in (_WIDTH, _HEIGHT)] == size:
            raise MemberRejected(SEVERAL_PAGES)


def check_slide(tags: Tags) -> Layout:
    """Parse the pixel layout of a slide and check that OpenSlide reads its colours correctly.

    Raises:
        MemberRejected: OpenSlide would return other colours.
    """
    layout = parse_layout(tags)
    if layout.numbers == 3:
        raise MemberRejected(FLOATING)
    if layout.numbers == 2:
        raise MemberRejected(SIGNED)
    if layout.bits not in (1, 2, 4, 8, 16) or layout.maximum is not None:
        raise MemberRejected("pixels of an unusual depth: convert them to 8 bits")
    if layout.alpha == "unexplained":
        raise MemberRejected(UNEXPLAINED)
    if layout.alpha and layout.bits == 16:  # after blending with white, unused upper bits can't be detected
        raise MemberRejected("transparency of 16 bits: convert it to 8 bits")
    return layout


def decode_uncommon(content: bytes, layout: Layout) -> tuple[Pixels, Pixels | None, bool]:
    """Decode a page whose layout isn't `is_common`.

    Returns:
        Colours, uint8 (height, width, 1 or 3), upright; alpha, uint8 (height, width, 1), or None; and whether the
        colours are premultiplied by alpha.

    Raises:
        MemberRejected: the range of the pixels isn't stated, or the page is damaged.
    """
    values = _read_values(content)
    samples = layout.colours + (layout.alpha is not None)
    values = values[..., None] if samples == 1 else values
    values = np.moveaxis(values, 0, -1) if layout.separate else values
    if values.shape != (layout.height, layout.width, samples):
        raise MemberRejected(UNREADABLE)
    turns, mirrored = _TURNS.get(layout.orientation, (0, False))
    values = np.rot90(values[:, ::-1] if mirrored else values, turns)
    colours, alpha = values[..., : layout.colours], values[..., layout.colours :]
    if layout.alpha == "unexplained":
        if (alpha != (layout.maximum or 2**layout.bits - 1)).any():
            raise MemberRejected(UNEXPLAINED)
        alpha = alpha[..., :0]
    pixels = _convert_to_8_bits(colours, layout, alpha)
    pixels = 255 - pixels if layout.photometric == _WHITE_IS_ZERO else pixels
    return pixels, _convert_to_8_bits(alpha, layout, None) if alpha.size else None, layout.alpha == "associated"


def _read_values(content: bytes, compressions: Collection[int] = _COMPRESSIONS) -> NDArray[Any]:
    """Read the values of the first page as stored.

    libtiff isn't used because it returns uninitialised memory for damaged pages.
    """
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it warns of odd metadata in every image
    try:
        with tifffile.TiffFile(io.BytesIO(content)) as tiff:
            page = tiff.pages.first
            complete = all(page.dataoffsets) and all(page.databytecounts)
            if page.compression not in compressions or not complete or math.prod(page.chunks) > _MAX_CHUNK:
                raise MemberRejected(UNREADABLE)
            return np.asarray(page.asarray(maxworkers=1))
    except Exception:  # decoders raise anything for hostile bytes
        raise MemberRejected(UNREADABLE) from None


def require_whole_jpegs(content: bytes) -> None:
    """Check that the JPEG strips or tiles of the first page are as large as the page states.

    Where they end early, libtiff returns uninitialised memory, other pixels each time, and reports no error.

    Raises:
        MemberRejected: a strip or tile is smaller, or damaged.
    """
    _read_values(content, _JPEG)


def _convert_to_8_bits(values: NDArray[Any], layout: Layout, alpha: NDArray[Any] | None) -> Pixels:
    """Convert values to the upper eight of the bits that the file states.

    Args:
        values: colours or alpha of the page.
        layout: the layout of the page.
        alpha: empty or the transparency of colours, which says which pixels are visible; None for alpha itself.
    """
    if layout.numbers != 1 and layout.maximum is None:
        raise MemberRejected(FLOATING if layout.numbers == 3 else SIGNED)
    if layout.maximum is None and layout.bits in (16, 32) and alpha is not None:
        require_bright(values[(alpha > 0)[..., 0]] if alpha.size else values, 2**layout.bits - 1)
    maximum, pixels = layout.maximum or 2**layout.bits - 1, np.empty(values.shape, np.uint8)
    for start in range(0, len(values), _ROWS):  # not all at once, since 64-bit copies of a large image take much memory
        part, target = values[start : start + _ROWS], pixels[start : start + _ROWS]
        if not np.isfinite(part).all() or part.min() < 0 or part.max() > maximum:
            raise MemberRejected("pixels beyond the range that the file states: convert them to 8 bits")
        if layout.numbers == 3:
            target[:] = np.floor(part.astype(np.float64) / maximum * 255 + 0.5)
        else:
            target[:] = part >> (int(maximum).bit_length() - 8)
    return pixels


def require_bright(values: NDArray[Any], maximum: int) -> None:
    """Check that values exceed the lowest quarter of their range; otherwise they use fewer bits than the file states.

    Args:
        values: values of the visible pixels.
        maximum: the largest possible value.

    Raises:
        MemberRejected: all values are in the lowest quarter.
    """
    if values.size and values.max() <= maximum // 4:
        raise MemberRejected(TOO_DARK)
