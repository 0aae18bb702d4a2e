"""One whole slide, opened through OpenSlide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from histopipe.inference.slides.dicom import is_dicom
from histopipe.inference.slides.pixel_size import PixelSize, pixel_size
from histopipe.ingest.datasets import MemberRejected
from histopipe.ingest.images import MAX_PIXELS, Patch, blend_on_white, resize_patch
from histopipe.ingest.tiff_pixels import check_slide, read_pages

if TYPE_CHECKING:
    import openslide

SLIDES = frozenset(  # always slides
    {".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".svslide", ".czi", ".dcm", ".dicom", ".vms", ".vmu"}
)
MAYBE = frozenset({".tif", ".tiff"})  # slides where tiled in several levels, or larger than any patch

LONGEST_SIDE = 2_000_000  # pixels of level 0: half a metre at 0.25 um; beyond, a file's head is damaged or made up

_TILE_WIDTH = 322  # the tag of a TIFF that is cut into tiles
_BOUNDS = ("x", "y", "width", "height")
_CACHE = 32 * 2**20  # bytes of decoded tiles that OpenSlide keeps: neighbours share them


def is_slide(path: Path) -> bool:
    """Whether a file is taken for a whole slide: by its name, a TIFF by its size and levels; only its head is read."""
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
    except Exception:  # whatever Pillow makes of it, OpenSlide may know better
        return _known(path)


def _known(path: Path) -> bool:
    import openslide

    return openslide.OpenSlide.detect_format(path) is not None


Bounds = tuple[int, int, int, int]


@dataclass(frozen=True)
class Slide:
    """An open slide. All but its pixels is read when it is opened: after one failed read OpenSlide tells nothing more.

    Attributes:
        handle: OpenSlide's; threads may share it.
        pixel: micrometres to a pixel of level 0.
        size: width and height of level 0, in pixels.
        downsamples: pixels of level 0 to one of each level, on either side.
        bounds: left, top, width and height of what the scanner saw, in pixels of level 0: all that viewers show.
        bits: of a value in its file, of which OpenSlide gives the upper eight.
    """

    handle: openslide.OpenSlide
    pixel: PixelSize
    size: tuple[int, int]
    downsamples: tuple[float, ...]
    bounds: Bounds
    bits: int = 8

    def level_for(self, downsample: float) -> int:
        """The smallest level that still shows every pixel of a picture `downsample` times smaller than level 0."""
        enough = downsample * 1.01  # levels are a pixel more or less
        return max((level for level, own in enumerate(self.downsamples) if own <= enough), default=0)

    def downsample(self, level: int) -> float:
        """Pixels of level 0 to one of `level`, on either side."""
        return self.downsamples[level]

    def read(self, level: int, box: tuple[float, float, float, float], size: tuple[int, int]) -> Patch:
        """Part of the slide, resized to `size` (height, width) as patches are; what isn't there is white.

        Args:
            level: from which to read.
            box: left, top, right and bottom, in pixels of level 0 and parts of them.

        Raises:
            MemberRejected: the file is damaged.
        """
        found, inside = self.read_around(level, box)
        return resize_patch(found, size, inside)

    def read_around(
        self, level: int, box: tuple[float, float, float, float]
    ) -> tuple[Patch, tuple[float, float, float, float]]:
        """The whole pixels of `level` that hold a box of level 0, and where it lies in them."""
        import openslide

        scale = self.downsample(level)
        corner = int(box[0] // scale * scale), int(box[1] // scale * scale)
        inside = [(edge - corner[place % 2]) / scale for place, edge in enumerate(box)]
        width, height = (max(1, int(np.ceil(edge - 1e-6))) for edge in inside[2:])
        try:
            region = self.handle.read_region(corner, level, (width, height))
        except openslide.OpenSlideError:
            raise MemberRejected("damaged slide") from None
        left, top = inside[:2]
        return blend_on_white(region), (left, top, min(inside[2], width), min(inside[3], height))


@contextmanager
def open_slide(path: Path, mpp: float | None = None) -> Iterator[Slide]:
    """Open a slide for a while.

    Args:
        path: of the file.
        mpp: micrometres to a pixel of level 0, where the user knows better than the file.

    Raises:
        MemberRejected: OpenSlide can't read it or would read other colours, it is too large to be one, or nothing
            tells its pixel size.
    """
    import openslide

    with ExitStack() as opened:
        try:
            bits = bits_of(path, openslide.OpenSlide.detect_format(path) or "")
            handle = opened.enter_context(openslide.OpenSlide(path))
            handle.set_cache(openslide.OpenSlideCache(_CACHE))
            width, height = (int(side) for side in handle.dimensions)
            downsamples = tuple(float(one) for one in handle.level_downsamples)
            properties = dict(handle.properties)
        except openslide.OpenSlideUnsupportedFormatError:
            if is_dicom(path):
                raise MemberRejected("a DICOM file without a slide that OpenSlide can read") from None
            raise MemberRejected("no slide that OpenSlide can read") from None
        except openslide.OpenSlideError:
            raise MemberRejected("damaged slide") from None
        if max(width, height) > LONGEST_SIDE:
            raise MemberRejected(f"absurd dimensions: over {LONGEST_SIDE:,} pixels a side")
        pixel = PixelSize(mpp, mpp, "--slide-mpp") if mpp else pixel_size(properties)
        if pixel is None:
            raise MemberRejected("unknown pixel size: give --slide-mpp")
        bounds = bounds_in(properties, (width, height))
        yield Slide(handle, pixel, (width, height), downsamples, bounds, bits)


def bits_of(path: Path, vendor: str) -> int:
    """Bits of a value of a slide's pixels: of a TIFF as its first page says, else the eight of every other format.

    Raises:
        MemberRejected: OpenSlide would turn them into other colours.
    """
    if vendor == "hamamatsu":  # NDPI: eight bits, and beyond 4 GiB its offsets aren't a TIFF's
        return 8
    try:
        with path.open("rb") as stream:
            pages = read_pages(stream, 1)
    except OSError:
        raise MemberRejected("can't be read") from None
    if not pages:
        return 8
    layout = check_slide(pages[0])
    if vendor == "generic-tiff" and layout.orientation != 1:  # each tile is turned by itself
        raise MemberRejected("a slide that its file wants turned: save it upright")
    return layout.bits


def bounds_in(properties: Mapping[str, str], size: tuple[int, int]) -> Bounds:
    """The box that a slide's properties name; the whole slide where they name none, or none that lies in it."""
    try:
        left, top, width, height = (int(properties[f"openslide.bounds-{name}"]) for name in _BOUNDS)
    except (KeyError, ValueError):
        return 0, 0, *size
    inside = min(left, top) >= 0 < min(width, height) and left + width <= size[0] and top + height <= size[1]
    return (left, top, width, height) if inside else (0, 0, *size)
