"""Drawing of microscopic fields of view of tumours at four magnifications.

A field is a window of the tissue's textures; the higher the magnification, the smaller the window. It is enlarged to
half of the picture's size before tissues are separated, so that outlines stay sharp. The subtype of the tumour
determines the tissues. As in the slides of idc, amounts of two stains are composed first and turned into colour last.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from histopipe.ingest.synthetic.amounts import Amounts, centre, choose, soften
from histopipe.ingest.synthetic.breakhis.plan import PatientPlan
from histopipe.ingest.synthetic.staining import draw_stain_table
from histopipe.ingest.synthetic.textures import SIDE, Bytes, Textures, blur, draw_white_noise, make_textures, rank

HEIGHT, WIDTH = 460, 700  # pixels, as published

_HALF = (HEIGHT // 2, WIDTH // 2)
_TEXTURE_MAGNIFICATION = 40  # at this magnification, a pixel of a texture is one of the half-size picture
_BENIGN_NUCLEUS, _TUMOUR_NUCLEUS = 200, 165  # amounts of haematoxylin in the middle of a nucleus
_MUCIN = np.array((24, 14), np.int16)  # amounts of haematoxylin and eosin
_GRAIN_ZOOM = 4  # how much finer the grain inside nuclei and strands is
_NOISE_SHIFT = 1  # the microscope's camera has half the noise of the slide scanner

Mask = NDArray[np.bool_]
View = dict[str, Bytes]  # textures of one field, (230, 350) each


@dataclass(frozen=True)
class TumourTraits:
    """The traits of one patient's tumour. Shares of area are given as thresholds of ranked textures, 0-255.

    Attributes:
        stroma, epithelium: share of the area that is nuclei, in each tissue.
        gain: how fast haematoxylin increases from the edge of a nucleus to its middle.
        blush: amount of haematoxylin between the nuclei of the epithelium.
        collagen: amount of eosin in the stroma.
        looseness: share of the stroma that is gaps.
        extent: share of the tissue that is glands or tumour cells.
        lining: thickness of a gland's wall.
    """

    stroma: int
    epithelium: int
    gain: int
    blush: int
    collagen: int
    looseness: int
    extent: int
    lining: int


# benign and malignant overlap in every range, so that colour alone doesn't separate them
_BENIGN = {
    "stroma": (10, 48),
    "epithelium": (105, 175),
    "gain": (3, 6),
    "blush": (15, 50),
    "collagen": (75, 130),
    "looseness": (8, 60),
    "extent": (50, 125),
    "lining": (30, 60),
}
_MALIGNANT = _BENIGN | {
    "stroma": (14, 55),
    "epithelium": (75, 135),
    "gain": (2, 5),
    "blush": (25, 65),
    "extent": (70, 170),
}


def draw_fields(plan: PatientPlan) -> Iterator[Bytes]:
    """Draw the fields of view of one patient, (460, 700, 3) each, with the patient's own random numbers."""
    generator = np.random.default_rng(plan.seed)
    textures = _make_patient_textures(plan.seed[0], generator)
    ranges = _MALIGNANT if plan.label else _BENIGN
    traits = TumourTraits(**{name: int(generator.integers(*limits)) for name, limits in ranges.items()})
    table = draw_stain_table(generator)
    for magnification in plan.magnifications:
        view = _cut_view(textures, magnification / _TEXTURE_MAGNIFICATION, generator)
        extent = int(np.clip(traits.extent + generator.integers(-45, 46), 15, 230))
        yield _colour(view, plan.subtypes[0], extent, traits, table, textures["noise"])


def _make_patient_textures(seed: int, generator: np.random.Generator) -> dict[str, Bytes]:
    """Return all textures, each shifted and rotated at random for one patient."""
    shared: Textures = make_textures(seed).shuffle(generator)
    regions = _make_region_textures(seed)
    shifted = {name: np.roll(texture, generator.integers(0, SIDE, 2), (0, 1)) for name, texture in regions.items()}
    return {**vars(shared), **shifted}


@lru_cache(maxsize=1)
def _make_region_textures(seed: int) -> dict[str, Bytes]:
    """Draw the textures that separate tissues: `ducts` with features of about 25 pixels, `broad` of about 100."""
    generator = np.random.default_rng([seed, 4])
    return {"ducts": rank(blur(draw_white_noise(generator), 8)), "broad": rank(blur(draw_white_noise(generator), 32))}


def _cut_view(textures: dict[str, Bytes], zoom: float, generator: np.random.Generator) -> View:
    """Cut a random window out of all textures and enlarge it to half the picture's size, the grain less so."""
    corner = generator.integers(0, SIDE, 2)
    view = {name: _enlarge(texture, corner, zoom) for name, texture in textures.items() if texture.ndim == 2}
    view["grain"] = _enlarge(textures["small_nuclei"], corner, max(1.0, zoom / _GRAIN_ZOOM))
    return view


def _enlarge(texture: Bytes, corner: NDArray[np.int64], zoom: float) -> Bytes:
    height, width = (side / zoom for side in _HALF)
    rows = np.arange(corner[0], corner[0] + int(height) + 2) % SIDE
    columns = np.arange(corner[1], corner[1] + int(width) + 2) % SIDE
    part = Image.fromarray(texture[np.ix_(rows, columns)])
    return np.asarray(part.resize(_HALF[::-1], Image.Resampling.BICUBIC, box=(0, 0, width, height)))


@dataclass(frozen=True)
class TissueMasks:
    """Masks of the tissues in a field of view, (230, 350) each; the other pixels are stroma."""

    epithelium: Mask
    empty: Mask
    mucin: Mask


def _place_tissues(view: View, subtype: str, extent: int, traits: TumourTraits) -> TissueMasks:
    """Place cells, cavities and mucus by subtype. Finer textures shift the outlines, which makes them ragged."""
    ragged = view["ducts"].astype(np.int16) + (centre(view["cords"]) >> 3)
    broad = view["broad"].astype(np.int16) + (centre(view["cords"]) >> 3)
    nothing = np.zeros(_HALF, np.bool_)
    wall = ragged - (255 - extent)  # positive inside the tumour
    lobule = broad > 255 - 2 * extent
    gaps = view["clefts"] < traits.looseness
    acini = view["acini"].astype(np.int16) - 110
    if subtype in ("A", "TA"):  # many small glands, in lobules or back to back
        ring = (acini > 0) & (acini < traits.lining)
        inside = lobule if subtype == "A" else np.ones_like(lobule)
        return TissueMasks(ring & inside, (gaps & ~ring) | ((acini >= traits.lining) & inside), nothing)
    if subtype in ("F", "PT"):  # wide ducts or leaf-like clefts in wide stroma
        lining = traits.lining // 2 if subtype == "F" else traits.lining // 3
        lined = (wall > 0) & (wall < lining)
        return TissueMasks(lined, (wall >= lining) | gaps, nothing)
    if subtype == "LC":  # single files between the strands
        files = (np.abs(centre(view["cords"])) < extent // 4) & lobule
        return TissueMasks(files, gaps & ~files, nothing)
    if subtype == "MC":  # islands in lakes of mucus
        lake = broad > 200 - extent
        islands = lake & (wall > -20) & (view["cords"] < 200)
        return TissueMasks(islands, gaps & ~lake, lake & ~islands)
    if subtype == "PC":  # fronds with thin cores, in a cavity
        frond = np.abs(ragged - 128)
        return TissueMasks(
            (frond > 8) & (frond < extent // 2), (frond >= extent // 2 + 18) | (gaps & (frond <= 8)), nothing
        )
    nests = (wall > -25) & (view["cords"] < 215)  # DC
    return TissueMasks(nests, gaps & ~nests, nothing)


def _colour(view: View, subtype: str, extent: int, traits: TumourTraits, table: Bytes, noise: Bytes) -> Bytes:
    """Turn a view into pixels: masks of tissues, amounts of stain, colours, noise."""
    tissue = _place_tissues(view, subtype, extent, traits)
    malignant = subtype in ("DC", "LC", "MC", "PC")
    haematoxylin = soften(_compute_haematoxylin(tissue, traits, view, malignant)[None])[0].astype(np.uint16)
    eosin = soften(_compute_eosin(tissue, traits, view)[None])[0].astype(np.uint16)
    half = Image.fromarray(table.take(haematoxylin << 8 | eosin, axis=0))
    pixels = np.array(half.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR))
    pixels += np.tile(noise >> _NOISE_SHIFT, (1, 2, 1))[
        :HEIGHT, :WIDTH
    ]  # stays below 256, as the stain table leaves room
    return pixels


def _compute_haematoxylin(tissue: TissueMasks, traits: TumourTraits, view: View, malignant: bool) -> Amounts:
    """Compute amounts (0-255) of haematoxylin: grainy nuclei, large and pale in carcinomas, and the cells around."""
    large = tissue.epithelium if malignant else np.zeros_like(tissue.epithelium)
    density = choose(tissue.epithelium, traits.epithelium, traits.stroma)
    nuclei = np.where(large, view["large_nuclei"], view["small_nuclei"])
    darkest = choose(large, _TUMOUR_NUCLEUS, _BENIGN_NUCLEUS)
    amounts: Amounts = np.clip((density - nuclei) * np.int16(traits.gain), 0, darkest)
    amounts -= (amounts >> 2) * (view["grain"] > 160)
    amounts += choose(tissue.epithelium, traits.blush, 10)
    amounts[tissue.mucin] = _MUCIN[0]
    amounts[tissue.empty] = 0
    return np.clip(amounts, 0, 255)


def _compute_eosin(tissue: TissueMasks, traits: TumourTraits, view: View) -> Amounts:
    """Compute amounts (0-255) of eosin: strands of collagen, paler in cells, almost none in mucus."""
    strands, grain = centre(view["fibres"]), centre(view["grain"])
    stroma = traits.collagen + (3 * strands >> 3) + (grain >> 3)
    cells = traits.collagen * 3 // 4 + (strands >> 2)
    amounts = np.where(tissue.epithelium, cells, np.where(tissue.mucin, _MUCIN[1] + (strands >> 4), stroma))
    amounts[tissue.empty] = 0
    return np.clip(amounts, 0, 255)
