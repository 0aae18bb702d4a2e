"""What a TIFF says of its pixels, and its pixels as eight-bit RGB; patches and whole slides are held to the same rules.

TIFF allows pixels that no viewer shows alike: 12 bits in 16, floats, signed numbers, several kinds of transparency.
Those whose range and meaning the file states are read. The others are set aside with the reason: reading them by guess
gives black patches, which a network grades as readily as any.
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
UNEXPLAINED = "a channel beside the colours that the file doesn't explain: remove it, or save it as transparency"
SEVERAL_PAGES = "a stack of several pages: save each as an image of its own"

Tags = Mapping[int, tuple[Any, ...]]
Pixels = NDArray[np.uint8]
Alpha = Literal["associated", "unassociated", "unexplained"]

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION, _SAMPLES = 256, 257, 258, 259, 262, 274, 277
_LEAST, _MOST, _PLANAR, _COLOUR_MAP, _INKS = 280, 281, 284, 320, 332
_EXTRA, _FORMAT, _SMALLEST, _LARGEST = 338, 339, 340, 341
_KIND, _OLD_KIND = 254, 255  # of a page: a smaller copy, a mask, a page of several
_WANTED = frozenset(
    {_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION, _SAMPLES, _LEAST, _MOST, _PLANAR, _COLOUR_MAP}
    | {_INKS, _EXTRA, _FORMAT, _SMALLEST, _LARGEST, _KIND, _OLD_KIND}
)
_TYPES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 11: "f", 12: "d", 13: "I", 16: "Q", 17: "q"}
_MOST_ENTRIES = 4096  # of a page; usual are 10 to 40
_PACKINGS = frozenset({1, 5, 8, 32946, 32773, 34925, 50000})  # none, LZW, deflate, PackBits, LZMA, Zstandard
_JPEG = frozenset({7})
_LARGEST_CHUNK = 20_000_000  # values of a strip or tile: those of the largest patch and its transparency
_ROWS = 64  # that are brought to eight bits at a time
_LONGEST = 3 * 2**16  # values of a tag: a colour map of 16 bits

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _INK, _YCBCR, _LAB = 0, 1, 2, 3, 5, 6, 8
_COLOURS = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _PALETTE: 1, _INK: 4, _YCBCR: 3, _LAB: 3}
_SPLIT_BY_LIBRARY = (10, 12, 14, 16, 32)  # bits of whole numbers that are read beyond eight
_TURNS = {2: (0, True), 3: (2, False), 4: (2, True), 5: (1, True), 6: (3, False), 7: (3, True), 8: (1, False)}


def read_pages(stream: BinaryIO, most: int) -> list[Tags]:
    """Read the tags of a TIFF's first pages, at most `most` of them; those that its pixels depend on.

    Returns:
        Values by tag; nothing at all where the bytes are no TIFF's, and fewer pages where one is damaged.
    """
    stream.seek(0)
    start = stream.read(16)
    if start[:4] not in SIGNATURES:
        return []
    order, big = "<" if start[:2] == b"II" else ">", start[2:4] in (b"+\0", b"\0+")
    pages: list[Tags] = []
    try:
        (offset,) = struct.unpack_from(f"{order}Q" if big else f"{order}I", start, 8 if big else 4)
        while offset and len(pages) < most:
            tags, offset = _read_page(stream, offset, order, big)
            pages.append(tags)
    except (struct.error, OSError, ValueError, OverflowError):
        pass  # a decoder says more of the damage
    return pages


def _read_page(stream: BinaryIO, offset: int, order: str, big: bool) -> tuple[Tags, int]:
    stream.seek(offset)
    count_size, entry_size, offset_code = (8, 20, "Q") if big else (2, 12, "I")
    (count,) = struct.unpack(f"{order}{'Q' if big else 'H'}", stream.read(count_size))
    if count > _MOST_ENTRIES:
        raise ValueError("absurdly many tags")
    entries = stream.read(count * entry_size)
    (following,) = struct.unpack(f"{order}{offset_code}", stream.read(8 if big else 4))
    tags: dict[int, tuple[Any, ...]] = {}
    for start in range(0, count * entry_size, entry_size):
        tag, kind, length = struct.unpack_from(f"{order}HH{offset_code}", entries, start)
        if tag in _WANTED and kind in _TYPES and 0 < length <= _LONGEST:
            form = f"{order}{length}{_TYPES[kind]}"
            field = entries[start + (12 if big else 8) : start + entry_size]
            if struct.calcsize(form) > len(field):
                stream.seek(struct.unpack(f"{order}{offset_code}", field)[0])
                field = stream.read(struct.calcsize(form))
            tags.setdefault(tag, struct.unpack_from(form, field))
    return tags, following


@dataclass(frozen=True)
class Layout:
    """What a page's pixels are.

    Attributes:
        width, height: as stored, before they are turned upright.
        bits: of a value.
        numbers: 1 unsigned, 2 signed, 3 floating-point, as TIFF numbers them.
        photometric: how values become colours, as TIFF numbers it.
        colours: values of a pixel that are colour.
        alpha: what a further one is; None where there is none.
        most: the value of full intensity if the file states one, other than the largest that fits.
        orientation: 1 for upright, as Exif numbers it.
        separate: whether each channel lies by itself.
    """

    width: int
    height: int
    bits: int
    numbers: int
    photometric: int
    colours: int
    alpha: Alpha | None
    most: float | None
    orientation: int
    separate: bool

    @property
    def usual(self) -> bool:
        """Whether it is of at most eight bits and, if transparent, in a way that image libraries agree on."""
        grey = self.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO)
        agreed = self.alpha is None or self.alpha == "unassociated" or (self.alpha == "associated" and not grey)
        return self.bits <= 8 and agreed


def layout_of(tags: Tags) -> Layout:
    """Make out what a page's pixels are.

    Raises:
        MemberRejected: they are of a kind that can't be read for certain; the reason says which.
    """
    bits, numbers = set(tags.get(_BITS, (1,))), set(tags.get(_FORMAT, (1,)))
    photometric, samples = _first(tags, _PHOTOMETRIC, -1), _first(tags, _SAMPLES, 1)
    if len(bits) > 1 or len(numbers) > 1:
        raise MemberRejected("channels of different depths: convert them to 8 bits")
    if photometric not in _COLOURS or (photometric == _INK and _first(tags, _INKS, 1) != 1):
        raise MemberRejected("colours of an unusual kind: convert them to RGB")
    depth, colours = bits.pop(), _COLOURS[photometric]
    kind = {4: 1}.get(number := numbers.pop(), number)  # 4: undefined, in practice unsigned
    _check_numbers(depth, kind, photometric)
    if photometric == _PALETTE and 0 < max(tags.get(_COLOUR_MAP, (0,))) < 256:
        raise MemberRejected("a colour map of 8 bits where TIFF has 16: convert it to RGB")
    return Layout(
        width=_first(tags, _WIDTH, 0),
        height=_first(tags, _HEIGHT, 0),
        bits=depth,
        numbers=kind,
        photometric=photometric,
        colours=colours,
        alpha=_alpha(samples - colours, tags.get(_EXTRA, ()), photometric),
        most=_stated_most(tags, depth, kind),
        orientation=_first(tags, _ORIENTATION, 1),
        separate=_first(tags, _PLANAR, 1) == 2 and samples > 1,
    )


def _first(tags: Tags, tag: int, default: int) -> int:
    return int(tags.get(tag, (default,))[0])


def _check_numbers(bits: int, kind: int, photometric: int) -> None:
    plain = photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB)
    readable = {1: (1, 2, 4, 8, *_SPLIT_BY_LIBRARY), 2: (16, 32), 3: (16, 32, 64)}
    if kind not in readable:
        raise MemberRejected("complex pixels: convert them to 8 bits")
    if bits not in readable[kind] or (not plain and (bits > 8 or kind != 1)):
        raise MemberRejected("pixels of an unusual depth: convert them to 8 bits")


def _alpha(further: int, extra: tuple[Any, ...], photometric: int) -> Alpha | None:
    if further == 0:
        return None
    if further != 1 or photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB):
        raise MemberRejected("more or fewer channels than its colours have: save it as RGB")
    kinds: dict[int, Alpha] = {1: "associated", 2: "unassociated"}
    return kinds.get(int(extra[0]) if extra else 0, "unexplained")


def _stated_most(tags: Tags, bits: int, kind: int) -> float | None:
    """The value of full intensity, if the file states one that can be a scale.

    TIFF means these tags for statistics: only a power of two less one, or 1 of floats, isn't just the brightest pixel.
    """
    if any(value != 0 for tag in (_SMALLEST, _LEAST) for value in tags.get(tag, ())):
        return None
    stated = {float(value) for value in tags.get(_LARGEST, tags.get(_MOST, ()))}
    scales = {float(2**power - 1) for power in range(8, 33)} | ({1.0} if kind == 3 else set())
    if len(stated) != 1 or not stated <= scales or (kind == 1 and stated == {2.0**bits - 1}):
        return None
    return stated.pop()


def page_size(pages: list[Tags]) -> tuple[int, int]:
    """Width and height of the first page; zeros where there is none."""
    tags = pages[0] if pages else {}
    return _first(tags, _WIDTH, 0), _first(tags, _HEIGHT, 0)


def check_pages(pages: list[Tags]) -> None:
    """Refuse a stack: pages as large as the first one that are no copies or masks of it.

    Raises:
        MemberRejected: it is one.
    """
    size = [pages[0].get(tag) for tag in (_WIDTH, _HEIGHT)]
    for page in pages[1:]:
        copy = _first(page, _KIND, 0) & 0b101 or _first(page, _OLD_KIND, 1) == 2
        if not copy and [page.get(tag) for tag in (_WIDTH, _HEIGHT)] == size:
            raise MemberRejected(SEVERAL_PAGES)


def check_slide(tags: Tags) -> Layout:
    """What the pixels of a slide are, of those that OpenSlide turns into colours rightly.

    Raises:
        MemberRejected: it would turn them into others.
    """
    layout = layout_of(tags)
    if layout.numbers == 3:
        raise MemberRejected(FLOATING)
    if layout.numbers == 2:
        raise MemberRejected(SIGNED)
    if layout.bits not in (1, 2, 4, 8, 16) or layout.most is not None:
        raise MemberRejected("pixels of an unusual depth: convert them to 8 bits")
    if layout.alpha == "unexplained":
        raise MemberRejected(UNEXPLAINED)
    if layout.alpha and layout.bits == 16:  # on white it can't be told whether the upper bits are empty
        raise MemberRejected("transparency of 16 bits: convert it to 8 bits")
    return layout


def decode_unusual(content: bytes, layout: Layout) -> tuple[Pixels, Pixels | None, bool]:
    """Decode a page that isn't `usual`.

    Returns:
        Colours, uint8 (height, width, 1 or 3), upright; transparency, uint8 (height, width, 1), if there is any; and
        whether the colours are multiplied by it already.

    Raises:
        MemberRejected: its range isn't stated, or it is damaged.
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
        if (alpha != (layout.most or 2**layout.bits - 1)).any():
            raise MemberRejected(UNEXPLAINED)
        alpha = alpha[..., :0]
    shown = _eight_bits(colours, layout, alpha)
    shown = 255 - shown if layout.photometric == _WHITE_IS_ZERO else shown
    return shown, _eight_bits(alpha, layout, None) if alpha.size else None, layout.alpha == "associated"


def _read_values(content: bytes, packings: Collection[int] = _PACKINGS) -> NDArray[Any]:
    """A first page's values as stored. Not by libtiff, which of damaged ones gives whatever lay in memory before."""
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it tells of odd metadata for each image again
    try:
        with tifffile.TiffFile(io.BytesIO(content)) as tiff:
            page = tiff.pages.first
            whole = all(page.dataoffsets) and all(page.databytecounts)
            if page.compression not in packings or not whole or math.prod(page.chunks) > _LARGEST_CHUNK:
                raise MemberRejected(UNREADABLE)
            return np.asarray(page.asarray(maxworkers=1))
    except Exception:  # whatever a decoder makes of hostile bytes, it is one unusable member
        raise MemberRejected(UNREADABLE) from None


def require_whole_jpegs(content: bytes) -> None:
    """Refuse a first page whose JPEG strips or tiles are smaller than the page says.

    libtiff leaves whatever lay in memory before where they end, other pixels each time, and reports no error.

    Raises:
        MemberRejected: one is smaller, or damaged.
    """
    _read_values(content, _JPEG)


def _eight_bits(values: NDArray[Any], layout: Layout, alpha: NDArray[Any] | None) -> Pixels:
    """The upper eight of the bits that the file states; `alpha`, if any, tells which pixels are seen."""
    if layout.numbers != 1 and layout.most is None:
        raise MemberRejected(FLOATING if layout.numbers == 3 else SIGNED)
    if layout.most is None and layout.bits in (16, 32) and alpha is not None:
        require_bright(values[(alpha > 0)[..., 0]] if alpha.size else values, 2**layout.bits - 1)
    most, shown = layout.most or 2**layout.bits - 1, np.empty(values.shape, np.uint8)
    for start in range(0, len(values), _ROWS):  # not all at once: of 64 bits that would be many copies of a large image
        part, target = values[start : start + _ROWS], shown[start : start + _ROWS]
        if not np.isfinite(part).all() or part.min() < 0 or part.max() > most:
            raise MemberRejected("pixels beyond the range that the file states: convert them to 8 bits")
        if layout.numbers == 3:
            target[:] = np.floor(part.astype(np.float64) / most * 255 + 0.5)
        else:
            target[:] = part >> (int(most).bit_length() - 8)
    return shown


def require_bright(values: NDArray[Any], most: int) -> None:
    """Refuse values that lie in the lowest quarter of their range: they have fewer bits than their file says.

    Args:
        values: of the pixels that are seen.
        most: the largest that fits.

    Raises:
        MemberRejected: they do.
    """
    if values.size and values.max() <= most // 4:
        raise MemberRejected(TOO_DARK)
