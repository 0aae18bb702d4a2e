"""How much tissue a pixel shows: what the file of a slide says of it, the most trustworthy statement first."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

PLAUSIBLE = (0.05, 20.0)  # micrometres: a 72 dpi that a program wrote for want of anything better means 353
COARSEST = 1000.0  # micrometres: what a scanner or OME-XML states outright may be a slide's thumbnail
OBJECTIVE = 10.0  # micrometres divided by the objective's power: 40x means 0.25, 20x 0.5, as most scanners have it

_UNITS = {"inch": 25_400.0, "centimeter": 10_000.0}
_OME_PIXELS = re.compile(r"""<(?:\w+:)?Pixels\b(?:[^>"']|"[^"]*"|'[^']*')*>""")
_OME = re.compile(r"""\bPhysicalSize(?P<what>[XY](?:Unit)?)\s*=\s*(?P<quote>["'])(?P<value>.*?)(?P=quote)""", re.DOTALL)
_OME_UNITS = {"µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3}


class PixelSize(NamedTuple):
    """Micrometres to a pixel across and down, and where that is from."""

    x: float
    y: float
    source: str


def pixel_size(properties: Mapping[str, str]) -> PixelSize | None:
    """What a slide's properties, by OpenSlide's names, say of its pixels; None where they say nothing plausible."""
    for source, x, y in _statements(properties):
        most = COARSEST if source == "OME-XML" or (source == "the file" and _by_scanner(properties)) else PLAUSIBLE[1]
        if all(math.isfinite(value) and PLAUSIBLE[0] <= value <= most for value in (x, y)):
            return PixelSize(x, y, source)
    return None


def _by_scanner(properties: Mapping[str, str]) -> bool:
    """Whether OpenSlide has the pixel size from a format that states it, not from the resolution of any TIFF."""
    return properties.get("openslide.vendor", "generic-tiff") != "generic-tiff"


def _statements(properties: Mapping[str, str]) -> Iterator[tuple[str, float, float]]:
    yield "the file", _number(properties, "openslide.mpp-x"), _number(properties, "openslide.mpp-y")
    yield _of_ome(properties.get("tiff.ImageDescription", ""))
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


def _of_ome(description: str) -> tuple[str, float, float]:
    """By the first of its images, the slide itself: others are its label and the like."""
    first = _OME_PIXELS.search(description)
    told = {found["what"]: html.unescape(found["value"]) for found in _OME.finditer(first[0] if first else "")}
    across, down = (_number(told, axis) * _OME_UNITS.get(told.get(f"{axis}Unit", "µm"), math.nan) for axis in "XY")
    return "OME-XML", across, down
