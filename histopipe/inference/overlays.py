"""Overlays for QuPath: a slide's tiles and regions as GeoJSON, its heat map as a pyramidal OME-TIFF."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from histopipe.evaluation.slide_figures import TRUTH_COLOURS, file_name
from histopipe.inference.predicted_slide import PredictedSlide
from histopipe.inference.regions import regions

Overlay = Literal["geojson", "ome-tiff"]

ENDINGS: dict[Overlay, str] = {"geojson": ".geojson", "ome-tiff": ".ome.tif"}
PER_TILE, LARGEST = 16, 4096  # pixels of a heat map: per tile, and at most along its longer side
TILE = 256  # pixels: side of the heat map's own tiles; its smallest level fits into one
SHADES = "viridis"

_IDS = uuid.UUID("6f0f7c1e-6a0b-5a2e-9a55-7d3e5c1b8a10")  # our own namespace, so that a tile always has the same id


def write_overlay(kind: Overlay, slide: PredictedSlide, folder: Path) -> Path:
    """Write an overlay of a slide into `folder`; return the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (file_name(slide.case_id).removesuffix(".png") + ENDINGS[kind])
    (write_geojson if kind == "geojson" else write_heat_map)(slide, path)
    return path


def write_geojson(slide: PredictedSlide, path: Path) -> None:
    """Write each tile as a QuPath object, and each region of positive tiles as an annotation.

    Coordinates are pixels of the slide's full resolution, from the corner of its bounds, as QuPath expects. Each object
    is on a line of its own.
    """
    with path.open("w", encoding="utf-8") as stream:
        stream.write('{"type": "FeatureCollection", "features": [')
        for number, feature in enumerate(_features(slide)):
            stream.write((",\n" if number else "\n") + json.dumps(feature, ensure_ascii=False))
        stream.write("\n]}\n")


def _features(slide: PredictedSlide) -> Iterator[dict[str, object]]:
    yield from _region_features(slide)
    columns = ("x", "y", "width", "height", "probability", "decision")
    for x, y, width, height, probability, decision in slide.tiles[list(columns)].itertuples(index=False, name=None):
        left, top = _to_viewer(slide, (x, y))
        right, bottom = left + width, top + height
        ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
        measurements = {"probability": round(probability, 6)}
        yield _feature(slide, "tile", f"{x},{y}", [ring], int(decision), measurements)


def _to_viewer(slide: PredictedSlide, corner: tuple[int, int]) -> list[int]:
    """Convert a position on level 0 to QuPath's coordinates, which start at the corner of the slide's bounds."""
    return [corner[0] - slide.bounds[0], corner[1] - slide.bounds[1]]


def _region_features(slide: PredictedSlide) -> Iterator[dict[str, object]]:
    positive = slide.on_grid("decision") == 1
    probability = slide.on_grid("probability")
    for cells, rings in regions(positive):
        corners = [[_to_viewer(slide, slide.grid.corner(*corner)) for corner in ring] for ring in rings]
        mean = float(probability[cells[:, 0], cells[:, 1]].mean())
        measurements = {"tiles": len(cells), "mean probability": round(mean, 6)}
        yield _feature(slide, "annotation", f"region {rings[0][0]}", corners, 1, measurements)


def _feature(
    slide: PredictedSlide, kind: str, name: str, rings: list[Any], decision: int, measurements: dict[str, float]
) -> dict[str, object]:
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(_IDS, f"{slide.case_id}/{name}")),
        "geometry": {"type": "Polygon", "coordinates": rings},
        "properties": {
            "objectType": kind,
            "classification": {"name": slide.classes[decision], "color": _rgb(TRUTH_COLOURS[decision])},
            "measurements": measurements,
        },
    }


def _rgb(colour: str) -> list[int]:
    return list(bytes.fromhex(colour.removeprefix("#")))


def write_heat_map(slide: PredictedSlide, path: Path) -> None:
    """Write probabilities as a pyramid of colours from violet (0) to yellow (1), white without a prediction.

    The picture covers the slide's bounds, as QuPath shows them, and states its pixel size in OME-XML, so that it can be
    shown over the slide.
    """
    import tifffile

    picture, size = heat_map(slide)
    levels = [picture]
    while max(levels[-1].shape[:2]) > TILE:
        levels.append(_halved(levels[-1]))
    options: dict[str, Any] = {"tile": (TILE, TILE), "photometric": "rgb", "compression": "zlib", "software": False}
    identifier = str(uuid.uuid5(_IDS, f"{slide.case_id}/heat map"))  # otherwise tifffile writes the machine's address
    metadata = {"axes": "YXS", "Name": slide.case_id, "UUID": identifier} | {
        key: value
        for axis, side in zip("XY", size, strict=True)
        for key, value in ((f"PhysicalSize{axis}", side), (f"PhysicalSize{axis}Unit", "µm"))
    }
    with tifffile.TiffWriter(path, ome=True) as tiff:
        for number, level in enumerate(levels):
            per_cm = tuple(10_000 / (side * 2**number) for side in size)
            extra = {"subfiletype": 1} if number else {"subifds": len(levels) - 1, "metadata": metadata}
            tiff.write(level, resolution=per_cm, resolutionunit="CENTIMETER", **options, **extra)


def heat_map(slide: PredictedSlide) -> tuple[NDArray[np.uint8], tuple[float, float]]:
    """Draw the heat map; return it, uint8 (height, width, 3), and the width and height of a pixel in micrometres."""
    from matplotlib import colormaps

    values = slide.on_grid("probability")
    side = max(1, min(PER_TILE, LARGEST // max(values.shape)))
    shades = (colormaps[SHADES](np.nan_to_num(values))[..., :3] * 255 + 0.5).astype(np.uint8)
    shades[np.isnan(values)] = 255
    scale = [length / side for length in slide.grid.side]
    columns, rows = (
        _cells_under(start, length, part, side, count)
        for start, length, part, count in zip(
            slide.bounds[:2], slide.bounds[2:], scale, values.shape[::-1], strict=True
        )
    )
    picture = shades[rows[:, None], columns]
    return np.ascontiguousarray(picture), (scale[0] * slide.pixel.x, scale[1] * slide.pixel.y)


def _cells_under(start: int, length: int, scale: float, side: int, count: int) -> NDArray[np.int64]:
    """Return which of `count` grid cells, `side` pixels each, holds the centre of each pixel of a picture."""
    middles = start / scale + np.arange(max(1, round(length / scale))) + 0.5
    return np.minimum((middles / side).astype(np.int64), count - 1)


def _halved(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Halve a picture by taking every second pixel, since a mean of colours would represent no probability."""
    return np.ascontiguousarray(picture[::2, ::2])
