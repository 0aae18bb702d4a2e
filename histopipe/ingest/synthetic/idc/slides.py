"""Draw the patches of one slide.

Two amounts per pixel, haematoxylin (nuclei) and eosin (everything else), are put together from the slide's
maps and the textures; the case's stain table turns them into colour.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from histopipe.ingest.synthetic.amounts import Amounts, centred, divided, either, softened
from histopipe.ingest.synthetic.idc.anatomy import EDGE, NODES, PATCH, STEP, Anatomy, Map, lay_out
from histopipe.ingest.synthetic.idc.plan import CasePlan
from histopipe.ingest.synthetic.staining import stain_table
from histopipe.ingest.synthetic.textures import SIDE, Bytes, Textures, make_textures

_BATCH = 32  # patches drawn at once: their arrays of 160 kB stay in a core's cache

Mask = NDArray[np.bool_]
Indices = NDArray[np.int64]

# Amounts of haematoxylin: at most in a nucleus, and spread through what lies between.
_BENIGN_NUCLEUS, _TUMOUR_NUCLEUS = 205, 140
_STROMA_BLUSH, _REACTIVE_BLUSH, _TUMOUR_BLUSH = 10, 35, 62
_EPITHELIUM = 60  # thickness of a gland's lining, in steps of the texture of acini: five pixels


@dataclass(frozen=True)
class Patch:
    """One patch: its corner on the slide in pixels, its label, and uint8 pixels (height, width, 3)."""

    x: int
    y: int
    label: int
    pixels: Bytes


@dataclass(frozen=True)
class Character:
    """What makes one case's tissue its own. Shares of area are thresholds of 0-255, as textures are ranked.

    Attributes:
        benign, tumour, lymphoid, epithelial: share of the area that is nuclei, in each tissue.
        benign_gain, tumour_gain: how fast haematoxylin rises from a nucleus' rim to its middle.
        nests: share of the tumour that is its cells; the rest is stroma between them.
        collagen: amount of eosin in the stroma.
        looseness: share of the stroma that is gaps.
    """

    benign: int
    tumour: int
    lymphoid: int
    epithelial: int
    benign_gain: int
    tumour_gain: int
    nests: int
    collagen: int
    looseness: int


@dataclass(frozen=True)
class Regions:
    """Which pixels belong to what, (n, 50, 50) each; `nests` lie within `tumour`."""

    tumour: Mask
    nests: Mask
    fat: Mask
    lymphoid: Mask
    epithelium: Mask
    empty: Mask


def draw_slide(plan: CasePlan) -> Iterator[Patch]:
    """Draw every patch of one case, from its own random stream."""
    textures = make_textures(plan.seed[0])
    generator = np.random.default_rng(plan.seed)
    anatomy = lay_out(plan, generator)
    character = _character(generator)
    table = stain_table(generator)
    windows = _windows(textures.turned(generator))
    for start in range(0, plan.patches, _BATCH):
        chosen = slice(start, start + _BATCH)
        rows, columns = anatomy.rows[chosen], anatomy.columns[chosen]
        seen = {name: _cut(window, rows, columns) for name, window in windows.items()}
        regions = _regions(anatomy, character, seen, rows, columns)
        haematoxylin = softened(_haematoxylin(regions, character, seen)).astype(np.uint16)
        eosin = softened(_eosin(regions, character, seen)).astype(np.uint16)
        colours = table.take(haematoxylin << 8 | eosin, axis=0)
        colours += seen["noise"]
        yield from _patches(anatomy, chosen, colours)


def _character(generator: np.random.Generator) -> Character:
    """Ranges are set so that colour and texture give labels away about as much as in Kaggle's set."""
    ranges = {
        "benign": (12, 35),
        "tumour": (100, 150),
        "lymphoid": (130, 190),
        "epithelial": (130, 200),
        "benign_gain": (4, 7),
        "tumour_gain": (2, 4),
        "nests": (140, 220),
        "collagen": (75, 120),
        "looseness": (8, 48),
    }
    return Character(**{name: int(generator.integers(*limits)) for name, limits in ranges.items()})


def _windows(textures: Textures) -> dict[str, np.ndarray]:
    """Every 50x50 window of every texture, without copying: (SIDE, SIDE, ...) by texture name."""
    windows = {}
    for name, texture in vars(textures).items():
        margin = [(0, PATCH - 1)] * 2 + [(0, 0)] * (texture.ndim - 2)
        view = sliding_window_view(np.pad(texture, margin, mode="wrap"), (PATCH, PATCH), axis=(0, 1))
        windows[name] = np.moveaxis(view, 2, -1) if texture.ndim == 3 else view
    return windows


def _cut(window: np.ndarray, rows: Indices, columns: Indices) -> np.ndarray:
    return window[rows * PATCH % SIDE, columns * PATCH % SIDE]


def _zoomed(nodes: Map, rows: Indices, columns: Indices) -> Amounts:
    """Interpolate a map between its nodes over the patches at `rows` and `columns`: (n, 50, 50), 0-255."""
    corners: Amounts = sliding_window_view(nodes, (NODES + 1, NODES + 1))[rows * NODES, columns * NODES]
    right = np.arange(STEP, dtype=np.int16)
    left: Amounts = np.int16(STEP) - right
    down: Amounts = corners[:, :-1, None] * left[:, None] + corners[:, 1:, None] * right[:, None]
    down = down.reshape(-1, PATCH, NODES + 1)
    across: Amounts = down[..., :-1, None] * left + down[..., 1:, None] * right  # at most 25,500: fits 16 bits
    return divided(across.reshape(-1, PATCH, PATCH), STEP * STEP)


def _regions(
    anatomy: Anatomy, character: Character, seen: dict[str, Bytes], rows: Indices, columns: Indices
) -> Regions:
    """Textures shift the outlines, so that regions end raggedly, not along the maps' smooth contours."""
    cords, strands = centred(seen["cords"]), centred(seen["fibres"])
    tissue = _zoomed(anatomy.tissue, rows, columns) + (strands >> 4) > EDGE
    tumour = _zoomed(anatomy.tumour, rows, columns) + (cords >> 1) > EDGE
    glands = _zoomed(anatomy.glands, rows, columns) + seen["acini"].astype(np.int16) - 255
    lymphoid = _zoomed(anatomy.lymphocytes, rows, columns) + (cords >> 2) > EDGE
    gaps = (seen["clefts"] < character.looseness) & ~tumour
    return Regions(
        tumour=tumour,
        nests=tumour & (seen["cords"] < character.nests),
        fat=(_zoomed(anatomy.fat, rows, columns) + (cords >> 2) > EDGE) & ~lymphoid,
        lymphoid=lymphoid,
        epithelium=(glands > 0) & (glands < _EPITHELIUM),
        empty=gaps | (glands >= _EPITHELIUM) | ~tissue,
    )


def _haematoxylin(regions: Regions, character: Character, seen: dict[str, Bytes]) -> Amounts:
    """Nuclei, and a blush of the cells around them: (n, 50, 50), values 0-255."""
    density = np.full(regions.nests.shape, character.benign, np.int16)
    density[regions.tumour] = 2 * character.benign  # the stroma that a tumour grows in is inflamed
    density[regions.nests] = character.tumour
    density[regions.epithelium] = character.epithelial
    density[regions.lymphoid] = character.lymphoid
    nuclei = np.where(regions.nests, seen["large_nuclei"], seen["small_nuclei"])
    gain = either(regions.nests, character.tumour_gain, character.benign_gain)
    darkest = either(regions.nests, _TUMOUR_NUCLEUS, _BENIGN_NUCLEUS)
    amounts: Amounts = np.clip((density - nuclei) * gain, 0, darkest)
    amounts += either(regions.tumour, _REACTIVE_BLUSH, _STROMA_BLUSH)
    amounts += either(regions.nests, _TUMOUR_BLUSH - _REACTIVE_BLUSH, 0)
    amounts[regions.empty | regions.fat] = 0
    return amounts


def _eosin(regions: Regions, character: Character, seen: dict[str, Bytes]) -> Amounts:
    """Strands of collagen, paler in nests, and the walls of fat cells: (n, 50, 50), values 0-255."""
    strands, grain = centred(seen["fibres"]), centred(seen["large_nuclei"])
    stroma = character.collagen + (3 * strands >> 3) + (grain >> 2)
    cells = character.collagen * 3 // 4 + (strands >> 2)
    walls = 150 + (grain >> 1) - seen["fat"]
    amounts = np.where(regions.fat, walls, np.where(regions.nests, cells, stroma))
    amounts[regions.empty] = 0
    return np.clip(amounts, 0, 255)


def _patches(anatomy: Anatomy, chosen: slice, colours: Bytes) -> Iterator[Patch]:
    """Cut off what lies beyond the slide's edge."""
    places = zip(anatomy.rows[chosen], anatomy.columns[chosen], anatomy.labels[chosen], colours, strict=True)
    for row, column, label, pixels in places:
        x, y = int(column) * PATCH, int(row) * PATCH
        yield Patch(x, y, int(label), pixels[: anatomy.height - y, : anatomy.width - x])
