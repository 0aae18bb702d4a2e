"""A whole slide, opened with OpenSlide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from histopipe.inference.slides.dicom import is_dicom
from histopipe.inference.slides.pixel_size import PixelSize, read_pixel_size
from histopipe.ingest.datasets import MemberRejected
from histopipe.ingest.images import MAX_PIXELS, Patch, blend_on_white, resize_patch
from histopipe.ingest.tiff_pixels import check_slide, read_pages

if TYPE_CHECKING:
    import openslide

SLIDES = frozenset(  # always slides
    {".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".svslide", ".czi", ".dcm", ".dicom", ".vms", ".vmu"}
)
MAYBE = frozenset({".tif", ".tiff"})  # slides if tiled in several levels, or larger than any patch

LONGEST_SIDE = (
    2_000_000  # pixels of level 0: half a metre at 0.25 um; beyond that, a file's header is damaged or forged
)

_TILE_WIDTH = 322  # the tag of a tiled TIFF
_BOUNDS = ("x", "y", "width", "height")
_CACHE = 32 * 2**20  # bytes of decoded tiles that OpenSlide caches: neighbours share them


def is_slide(path: Path) -> bool:
    """Return whether a file is treated as a whole slide, by its name; for a TIFF by size and levels in its header."""
    if path.suffix.lower() in SLIDES:
        return path.is_file()
    if path.suffix.lower() not in MAYBE or not path.is_file():
        return False
    try:
        with Image.open(path, formats=("TIFF",)) as image:
            tiled = _TILE_WIDTH in image.tag_v2  # type: ignore[attr-defined]
            return image.width * image.height > MAX_PIXELS or (tiled and getattr(image, "n_frames", 1) > 1)
    except Image.DecompressionBombError:
        return True
    except Exception:  # OpenSlide may read files that Pillow can't
        return _is_known_format(path)


def _is_known_format(path: Path) -> bool:
    import openslide

    return openslide.OpenSlide.detect_format(path) is not None


Bounds = tuple[int, int, int, int]


@dataclass(frozen=True)
class Slide:
    """An open slide.

    All but its pixels is read when it is opened, since OpenSlide returns nothing more after one failed read.

    Attributes:
        handle: OpenSlide's object, which threads may share.
        pixel: the size of a pixel of level 0.
        size: width and height of level 0, in pixels.
        downsamples: for each level, the side of its pixels in pixels of level 0.
        bounds: left, top, width and height of the scanned area, in pixels of level 0; viewers show only that.
        bits: bits per value in its file, of which OpenSlide returns the upper eight.
    """

    handle: openslide.OpenSlide
    pixel: PixelSize
    size: tuple[int, int]
    downsamples: tuple[float, ...]
    bounds: Bounds
    bits: int = 8

    def level_for(self, downsample: float) -> int:
        """Return the coarsest level with all pixels of a picture that is `downsample` times smaller than level 0."""
        enough = downsample * 1.01  # levels are a pixel more or less
        return max((level for level, own in enumerate(self.downsamples) if own <= enough), default=0)

    def downsample(self, level: int) -> float:
        """Return the side of a pixel of `level` in pixels of level 0."""
        return self.downsamples[level]

    def read(self, level: int, box: tuple[float, float, float, float], size: tuple[int, int]) -> Patch:
        """Read a part of the slide, resized like patches; areas outside the slide are white.

        Args:
            level: the level to read from.
            box: left, top, right and bottom, in pixels of level 0; may be fractional.
            size: height and width of the result, in pixels.

        Raises:
            MemberRejected: the file is damaged.
        """
        pixels, inside = self.read_around(level, box)
        return resize_patch(pixels, size, inside)

    def read_around(
        self, level: int, box: tuple[float, float, float, float]
    ) -> tuple[Patch, tuple[float, float, float, float]]:
        """Read the whole pixels of `level` that hold a box of level 0; return them and the box in their coordinates."""
        import openslide

        scale = self.downsample(level)
        corner = int(box[0] // scale * scale), int(box[1] // scale * scale)
        inside = [(edge - corner[side % 2]) / scale for side, edge in enumerate(box)]
        width, height = (max(1, int(np.ceil(edge - 1e-6))) for edge in inside[2:])
        try:
            region = self.handle.read_region(corner, level, (width, height))
        except openslide.OpenSlideError:
            raise MemberRejected("damaged slide") from None
        left, top = inside[:2]
        return blend_on_white(region), (left, top, min(inside[2], width), min(inside[3], height))


@contextmanager
def open_slide(path: Path, mpp: float | None = None) -> Iterator[Slide]:
    """Open a slide, and close it at the end of the `with` block.

    Args:
        path: the slide's file.
        mpp: pixel size of level 0 in micrometres, which overrides the file's; None to use the file's.

    Raises:
        MemberRejected: OpenSlide can't read it or would read other colours, it is too large to be a slide, or its
            pixel size is unknown.
    """
    import openslide

    with ExitStack() as opened:
        try:
            bits = bits_of(path, openslide.OpenSlide.detect_format(path) or "")
            handle = opened.enter_context(openslide.OpenSlide(path))
            handle.set_cache(openslide.OpenSlideCache(_CACHE))
            width, height = (int(side) for side in handle.dimensions)
            downsamples = tuple(map(float, handle.level_downsamples))
            properties = dict(handle.properties)
        except openslide.OpenSlideUnsupportedFormatError:
            if is_dicom(path):
                raise MemberRejected("a DICOM file without a slide that OpenSlide can read") from None
            raise MemberRejected("no slide that OpenSlide can read") from None
        except openslide.OpenSlideError:
            raise MemberRejected("damaged slide") from None
        if max(width, height) > LONGEST_SIDE:
            raise MemberRejected(f"absurd dimensions: over {LONGEST_SIDE:,} pixels a side")
        pixel = PixelSize(mpp, mpp, "--slide-mpp") if mpp else read_pixel_size(properties)
        if pixel is None:
            raise MemberRejected("unknown pixel size: give --slide-mpp")
        bounds = read_bounds(properties, (width, height))
        yield Slide(handle, pixel, (width, height), downsamples, bounds, bits)


def bits_of(path: Path, vendor: str) -> int:
    """Return the bits per value of a slide's pixels: from the first page of a TIFF; eight in every other format.

    Raises:
        MemberRejected: OpenSlide would change the colours.
    """
    if vendor == "hamamatsu":  # NDPI has eight bits, and beyond 4 GiB its offsets differ from TIFF's
        return 8
    try:
        with path.open("rb") as stream:
            pages = read_pages(stream, 1)
    except OSError:
        raise MemberRejected("can't be read") from None
    if not pages:
        return 8
    layout = check_slide(pages[0])
    if vendor == "generic-tiff" and layout.orientation != 1:  # each tile would be turned separately
        raise MemberRejected("a slide that its file wants turned: save it upright")
    return layout.bits


def read_bounds(properties: Mapping[str, str], size: tuple[int, int]) -> Bounds:
    """Return the bounds in a slide's properties; the whole slide if there are none, or none inside it."""
    try:
        left, top, width, height = (int(properties[f"openslide.bounds-{name}"]) for name in _BOUNDS)
    except (KeyError, ValueError):
        return 0, 0, *size
    inside = min(left, top) >= 0 < min(width, height) and left + width <= size[0] and top + height <= size[1]
    return (left, top, width, height) if inside else (0, 0, *size)
