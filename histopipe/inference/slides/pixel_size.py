"""Read the pixel size of a slide from its properties; the most reliable statement is used."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

PLAUSIBLE = (0.05, 20.0)  # micrometres: 72 dpi, which programs write by default, would mean 353
COARSEST = 1000.0  # micrometres: a size stated by a scanner or OME-XML may be that of a slide's thumbnail
OBJECTIVE = 10.0  # micrometres divided by the objective's power: 40x means 0.25 and 20x 0.5, as in most scanners

_UNITS = {"inch": 25_400.0, "centimeter": 10_000.0}
_OME_PIXELS = re.compile(r"""<(?:\w+:)?Pixels\b(?:[^>"']|"[^"]*"|'[^']*')*>""")
_OME = re.compile(r"""\bPhysicalSize(?P<what>[XY](?:Unit)?)\s*=\s*(?P<quote>["'])(?P<value>.*?)(?P=quote)""", re.DOTALL)
_OME_UNITS = {"µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3}


class PixelSize(NamedTuple):
    """Width and height of a pixel in micrometres, and the source of the numbers."""

    x: float
    y: float
    source: str


def read_pixel_size(properties: Mapping[str, str]) -> PixelSize | None:
    """Return the pixel size from a slide's OpenSlide properties; None if none of them is plausible."""
    for source, x, y in _statements(properties):
        most = COARSEST if source == "OME-XML" or (source == "the file" and _by_scanner(properties)) else PLAUSIBLE[1]
        if all(math.isfinite(value) and PLAUSIBLE[0] <= value <= most for value in (x, y)):
            return PixelSize(x, y, source)
    return None


def _by_scanner(properties: Mapping[str, str]) -> bool:
    """Return whether OpenSlide has the pixel size from a scanner's format, not from a generic TIFF's resolution."""
    return properties.get("openslide.vendor", "generic-tiff") != "generic-tiff"


def _statements(properties: Mapping[str, str]) -> Iterator[tuple[str, float, float]]:
    yield "the file", _number(properties, "openslide.mpp-x"), _number(properties, "openslide.mpp-y")
    yield _read_ome(properties.get("tiff.ImageDescription", ""))
    unit = _UNITS.get(properties.get("tiff.ResolutionUnit", ""), math.nan)
    across, down = (_number(properties, f"tiff.{axis}Resolution") or math.nan for axis in "XY")
    yield "TIFF resolution", unit / across, unit / down
    power = OBJECTIVE / (_number(properties, "openslide.objective-power") or math.nan)
    yield "the objective's power", power, power


def _number(properties: Mapping[str, str], name: str) -> float:
    try:
        return float(properties[name])
    except (KeyError, ValueError):
        return math.nan


def _read_ome(description: str) -> tuple[str, float, float]:
    """Read the pixel size of the first image, the slide itself; others are its label and the like."""
    first = _OME_PIXELS.search(description)
    sizes = {match["what"]: html.unescape(match["value"]) for match in _OME.finditer(first[0] if first else "")}
    across, down = (_number(sizes, axis) * _OME_UNITS.get(sizes.get(f"{axis}Unit", "µm"), math.nan) for axis in "XY")
    return "OME-XML", across, down
