"""Drawing of the patches of one slide.

Amounts of two stains per pixel, haematoxylin (nuclei) and eosin (everything else), are composed from the slide's maps
and the textures. The case's stain table turns them into colour.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from histopipe.ingest.synthetic.amounts import Amounts, centre, choose, divide, soften
from histopipe.ingest.synthetic.idc.anatomy import EDGE, NODES, PATCH, STEP, Anatomy, Map, lay_out
from histopipe.ingest.synthetic.idc.plan import CasePlan
from histopipe.ingest.synthetic.staining import draw_stain_table
from histopipe.ingest.synthetic.textures import SIDE, Bytes, Textures, make_textures

_BATCH = 32  # patches drawn at a time: their arrays of 160 kB fit into a core's cache

Mask = NDArray[np.bool_]
Indices = NDArray[np.int64]

# Amounts of haematoxylin: maximum in a nucleus, and amount between nuclei
_BENIGN_NUCLEUS, _TUMOUR_NUCLEUS = 205, 140
_STROMA_BLUSH, _REACTIVE_BLUSH, _TUMOUR_BLUSH = 10, 35, 62
_EPITHELIUM = 60  # thickness of a gland's lining, in values of the texture of acini: five pixels


@dataclass(frozen=True)
class Patch:
    """A drawn patch.

    Attributes:
        x, y: position of its corner on the slide in pixels.
        label: 1 for tumour, else 0.
        pixels: uint8 (height, width, 3).
    """

    x: int
    y: int
    label: int
    pixels: Bytes


@dataclass(frozen=True)
class TissueTraits:
    """The traits of one case's tissue. Shares of area are given as thresholds of ranked textures, 0-255.

    Attributes:
        benign, tumour, lymphoid, epithelial: share of the area that is nuclei, in each tissue.
        benign_gain, tumour_gain: how fast haematoxylin increases from the edge of a nucleus to its middle.
        nests: share of the tumour that is tumour cells; the rest is stroma between them.
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
    """Masks of the tissues in n patches, (n, 50, 50) each; `nests` is part of `tumour`."""

    tumour: Mask
    nests: Mask
    fat: Mask
    lymphoid: Mask
    epithelium: Mask
    empty: Mask


def draw_slide(plan: CasePlan) -> Iterator[Patch]:
    """Draw the patches of one case with its own random numbers."""
    textures = make_textures(plan.seed[0])
    generator = np.random.default_rng(plan.seed)
    anatomy = lay_out(plan, generator)
    traits = _draw_traits(generator)
    table = draw_stain_table(generator)
    windows = _make_windows(textures.shuffle(generator))
    for start in range(0, plan.patches, _BATCH):
        batch = slice(start, start + _BATCH)
        rows, columns = anatomy.rows[batch], anatomy.columns[batch]
        views = {name: _cut(window, rows, columns) for name, window in windows.items()}
        regions = _place_regions(anatomy, traits, views, rows, columns)
        haematoxylin = soften(_compute_haematoxylin(regions, traits, views)).astype(np.uint16)
        eosin = soften(_compute_eosin(regions, traits, views)).astype(np.uint16)
        colours = table.take(haematoxylin << 8 | eosin, axis=0)
        colours += views["noise"]
        yield from _crop_patches(anatomy, batch, colours)


def _draw_traits(generator: np.random.Generator) -> TissueTraits:
    """Draw the traits of one case.

    The ranges are such that colour and texture predict labels about as well as in Kaggle's set.
    """
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
    return TissueTraits(**{name: int(generator.integers(*limits)) for name, limits in ranges.items()})


def _make_windows(textures: Textures) -> dict[str, np.ndarray]:
    """Return views of all 50x50 windows of each texture, (SIDE, SIDE, ...), by texture name."""
    windows = {}
    for name, texture in vars(textures).items():
        margin = [(0, PATCH - 1)] * 2 + [(0, 0)] * (texture.ndim - 2)
        view = sliding_window_view(np.pad(texture, margin, mode="wrap"), (PATCH, PATCH), axis=(0, 1))
        windows[name] = np.moveaxis(view, 2, -1) if texture.ndim == 3 else view
    return windows


def _cut(window: np.ndarray, rows: Indices, columns: Indices) -> np.ndarray:
    return window[rows * PATCH % SIDE, columns * PATCH % SIDE]


def _interpolate(nodes: Map, rows: Indices, columns: Indices) -> Amounts:
    """Interpolate a map between its nodes over n patches, (n, 50, 50), 0-255."""
    corners: Amounts = sliding_window_view(nodes, (NODES + 1, NODES + 1))[rows * NODES, columns * NODES]
    right = np.arange(STEP, dtype=np.int16)
    left: Amounts = np.int16(STEP) - right
    down: Amounts = corners[:, :-1, None] * left[:, None] + corners[:, 1:, None] * right[:, None]
    down = down.reshape(-1, PATCH, NODES + 1)
    across: Amounts = down[..., :-1, None] * left + down[..., 1:, None] * right  # at most 25,500, which fits 16 bits
    return divide(across.reshape(-1, PATCH, PATCH), STEP * STEP)


def _place_regions(
    anatomy: Anatomy, traits: TissueTraits, views: dict[str, Bytes], rows: Indices, columns: Indices
) -> Regions:
    """Make the masks of the tissues. Textures shift the smooth outlines of the maps, which makes them ragged."""
    cords, strands = centre(views["cords"]), centre(views["fibres"])
    tissue = _interpolate(anatomy.tissue, rows, columns) + (strands >> 4) > EDGE
    tumour = _interpolate(anatomy.tumour, rows, columns) + (cords >> 1) > EDGE
    glands = _interpolate(anatomy.glands, rows, columns) + views["acini"].astype(np.int16) - 255
    lymphoid = _interpolate(anatomy.lymphocytes, rows, columns) + (cords >> 2) > EDGE
    gaps = (views["clefts"] < traits.looseness) & ~tumour
    return Regions(
        tumour=tumour,
        nests=tumour & (views["cords"] < traits.nests),
        fat=(_interpolate(anatomy.fat, rows, columns) + (cords >> 2) > EDGE) & ~lymphoid,
        lymphoid=lymphoid,
        epithelium=(glands > 0) & (glands < _EPITHELIUM),
        empty=gaps | (glands >= _EPITHELIUM) | ~tissue,
    )


def _compute_haematoxylin(regions: Regions, traits: TissueTraits, views: dict[str, Bytes]) -> Amounts:
    """Compute amounts (0-255) of haematoxylin, (n, 50, 50): nuclei, and less in the cells around them."""
    density = np.full(regions.nests.shape, traits.benign, np.int16)
    density[regions.tumour] = 2 * traits.benign  # the stroma around a tumour is inflamed
    density[regions.nests] = traits.tumour
    density[regions.epithelium] = traits.epithelial
    density[regions.lymphoid] = traits.lymphoid
    nuclei = np.where(regions.nests, views["large_nuclei"], views["small_nuclei"])
    gain = choose(regions.nests, traits.tumour_gain, traits.benign_gain)
    darkest = choose(regions.nests, _TUMOUR_NUCLEUS, _BENIGN_NUCLEUS)
    amounts: Amounts = np.clip((density - nuclei) * gain, 0, darkest)
    amounts += choose(regions.tumour, _REACTIVE_BLUSH, _STROMA_BLUSH)
    amounts += choose(regions.nests, _TUMOUR_BLUSH - _REACTIVE_BLUSH, 0)
    amounts[regions.empty | regions.fat] = 0
    return amounts


def _compute_eosin(regions: Regions, traits: TissueTraits, views: dict[str, Bytes]) -> Amounts:
    """Compute amounts (0-255) of eosin, (n, 50, 50): strands of collagen, paler in nests, and walls of fat cells."""
    strands, grain = centre(views["fibres"]), centre(views["large_nuclei"])
    stroma = traits.collagen + (3 * strands >> 3) + (grain >> 2)
    cells = traits.collagen * 3 // 4 + (strands >> 2)
    walls = 150 + (grain >> 1) - views["fat"]
    amounts = np.where(regions.fat, walls, np.where(regions.nests, cells, stroma))
    amounts[regions.empty] = 0
    return np.clip(amounts, 0, 255)


def _crop_patches(anatomy: Anatomy, batch: slice, colours: Bytes) -> Iterator[Patch]:
    """Yield the patches of a batch, cropped at the edge of the slide."""
    patches = zip(anatomy.rows[batch], anatomy.columns[batch], anatomy.labels[batch], colours, strict=True)
    for row, column, label, pixels in patches:
        x, y = int(column) * PATCH, int(row) * PATCH
        yield Patch(x, y, int(label), pixels[: anatomy.height - y, : anatomy.width - x])
