"""Draw microscopic fields of tumours at four magnifications.

A field is a window of the tissue's textures, the smaller the higher the magnification, enlarged to half of the
picture's size before anything is decided by it, so that outlines stay sharp. What the tissue is made of follows from
the tumour's subtype; as in the slides of idc, amounts of two stains are put together and turned into colour last.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from histopipe.ingest.synthetic.amounts import Amounts, centred, either, softened
from histopipe.ingest.synthetic.breakhis.plan import PatientPlan
from histopipe.ingest.synthetic.staining import stain_table
from histopipe.ingest.synthetic.textures import SIDE, Bytes, Textures, blurred, make_textures, ranked, white

HEIGHT, WIDTH = 460, 700  # pixels, as published

_HALF = (HEIGHT // 2, WIDTH // 2)
_TEXTURE_MAGNIFICATION = 40  # at which a texture's pixel is one of the half-size picture
_BENIGN_NUCLEUS, _TUMOUR_NUCLEUS = 200, 165  # amount of haematoxylin in the middle of a nucleus
_MUCIN = np.array((24, 14), np.int16)  # amounts of haematoxylin and eosin
_GRAIN_ZOOM = 4  # how much finer the grain is that shows inside nuclei and strands
_NOISE_SHIFT = 1  # the microscope's camera has half of the slide scanner's noise

Mask = NDArray[np.bool_]
Seen = dict[str, Bytes]  # textures of one field, (230, 350) each


@dataclass(frozen=True)
class Character:
    """What makes one patient's tumour its own. Shares of area are thresholds of 0-255, as textures are ranked.

    Attributes:
        stroma, epithelium: share of the area that is nuclei, in each tissue.
        gain: how fast haematoxylin rises from a nucleus' rim to its middle.
        blush: haematoxylin spread between the nuclei of the epithelium.
        collagen: amount of eosin in the stroma.
        looseness: share of the stroma that is gaps.
        extent: share of the tissue that glands or tumour cells take.
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


# Benign and malignant overlap in every range, so that colour alone can't tell them apart.
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
    """Every field of one patient, (460, 700, 3), from the patient's own random stream."""
    generator = np.random.default_rng(plan.seed)
    textures = _tissue(plan.seed[0], generator)
    ranges = _MALIGNANT if plan.label else _BENIGN
    character = Character(**{name: int(generator.integers(*limits)) for name, limits in ranges.items()})
    table = stain_table(generator)
    for magnification in plan.magnifications:
        seen = _window(textures, magnification / _TEXTURE_MAGNIFICATION, generator)
        extent = int(np.clip(character.extent + generator.integers(-45, 46), 15, 230))
        yield _coloured(seen, plan.subtypes[0], extent, character, table, textures["noise"])


def _tissue(seed: int, generator: np.random.Generator) -> dict[str, Bytes]:
    """All textures of one patient, each shifted and turned by chance."""
    shared: Textures = make_textures(seed).turned(generator)
    own = {name: np.roll(texture, generator.integers(0, SIDE, 2), (0, 1)) for name, texture in _regions(seed).items()}
    return {**vars(shared), **own}


@lru_cache(maxsize=1)
def _regions(seed: int) -> dict[str, Bytes]:
    """Textures that say what grows where: `ducts` of some 25 texture pixels, `broad` of some 100."""
    generator = np.random.default_rng([seed, 4])
    return {"ducts": ranked(blurred(white(generator), 8)), "broad": ranked(blurred(white(generator), 32))}


def _window(textures: dict[str, Bytes], zoom: float, generator: np.random.Generator) -> Seen:
    """One place of the tissue, enlarged to half the picture's size; grain is enlarged less and stays fine."""
    corner = generator.integers(0, SIDE, 2)
    seen = {name: _enlarged(texture, corner, zoom) for name, texture in textures.items() if texture.ndim == 2}
    seen["grain"] = _enlarged(textures["small_nuclei"], corner, max(1.0, zoom / _GRAIN_ZOOM))
    return seen


def _enlarged(texture: Bytes, corner: NDArray[np.int64], zoom: float) -> Bytes:
    height, width = (side / zoom for side in _HALF)
    rows = np.arange(corner[0], corner[0] + int(height) + 2) % SIDE
    columns = np.arange(corner[1], corner[1] + int(width) + 2) % SIDE
    part = Image.fromarray(texture[np.ix_(rows, columns)])
    return np.asarray(part.resize(_HALF[::-1], Image.Resampling.BICUBIC, box=(0, 0, width, height)))


@dataclass(frozen=True)
class Tissue:
    """Which pixels of a field are what, (230, 350) each; the rest is stroma."""

    epithelium: Mask
    empty: Mask
    mucin: Mask


def _laid_out(seen: Seen, subtype: str, extent: int, character: Character) -> Tissue:
    """Where cells, cavities and mucus lie, by subtype; ragged, since finer textures shift the outlines."""
    ragged = seen["ducts"].astype(np.int16) + (centred(seen["cords"]) >> 3)
    broad = seen["broad"].astype(np.int16) + (centred(seen["cords"]) >> 3)
    nothing = np.zeros(_HALF, np.bool_)
    wall = ragged - (255 - extent)  # above 0 in the tumour
    lobule = broad > 255 - 2 * extent
    gaps = seen["clefts"] < character.looseness
    acini = seen["acini"].astype(np.int16) - 110
    if subtype in ("A", "TA"):  # many small glands, in lobules or back to back
        ring = (acini > 0) & (acini < character.lining)
        inside = lobule if subtype == "A" else np.ones_like(lobule)
        return Tissue(ring & inside, (gaps & ~ring) | ((acini >= character.lining) & inside), nothing)
    if subtype in ("F", "PT"):  # wide ducts or leaf-like clefts in much stroma
        narrow = character.lining // 2 if subtype == "F" else character.lining // 3
        lined = (wall > 0) & (wall < narrow)
        return Tissue(lined, (wall >= narrow) | gaps, nothing)
    if subtype == "LC":  # single files between the strands
        files = (np.abs(centred(seen["cords"])) < extent // 4) & lobule
        return Tissue(files, gaps & ~files, nothing)
    if subtype == "MC":  # islands in lakes of mucus
        lake = broad > 200 - extent
        islands = lake & (wall > -20) & (seen["cords"] < 200)
        return Tissue(islands, gaps & ~lake, lake & ~islands)
    if subtype == "PC":  # fronds with thin cores, in a cavity
        frond = np.abs(ragged - 128)
        return Tissue((frond > 8) & (frond < extent // 2), (frond >= extent // 2 + 18) | (gaps & (frond <= 8)), nothing)
    nests = (wall > -25) & (seen["cords"] < 215)  # DC
    return Tissue(nests, gaps & ~nests, nothing)


def _coloured(seen: Seen, subtype: str, extent: int, character: Character, table: Bytes, noise: Bytes) -> Bytes:
    tissue = _laid_out(seen, subtype, extent, character)
    malignant = subtype in ("DC", "LC", "MC", "PC")
    haematoxylin = softened(_haematoxylin(tissue, character, seen, malignant)[None])[0].astype(np.uint16)
    eosin = softened(_eosin(tissue, character, seen)[None])[0].astype(np.uint16)
    half = Image.fromarray(table.take(haematoxylin << 8 | eosin, axis=0))
    pixels = np.array(half.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR))
    pixels += np.tile(noise >> _NOISE_SHIFT, (1, 2, 1))[:HEIGHT, :WIDTH]  # below 256: the stain table leaves room
    return pixels


def _haematoxylin(tissue: Tissue, character: Character, seen: Seen, malignant: bool) -> Amounts:
    """Nuclei, large and pale in carcinomas, with grain in them, and a blush of the cells around: values 0-255."""
    large = tissue.epithelium if malignant else np.zeros_like(tissue.epithelium)
    density = either(tissue.epithelium, character.epithelium, character.stroma)
    nuclei = np.where(large, seen["large_nuclei"], seen["small_nuclei"])
    darkest = either(large, _TUMOUR_NUCLEUS, _BENIGN_NUCLEUS)
    amounts: Amounts = np.clip((density - nuclei) * np.int16(character.gain), 0, darkest)
    amounts -= (amounts >> 2) * (seen["grain"] > 160)
    amounts += either(tissue.epithelium, character.blush, 10)
    amounts[tissue.mucin] = _MUCIN[0]
    amounts[tissue.empty] = 0
    return np.clip(amounts, 0, 255)


def _eosin(tissue: Tissue, character: Character, seen: Seen) -> Amounts:
    """Strands of collagen, paler in cells, nearly none in mucus: values 0-255."""
    strands, grain = centred(seen["fibres"]), centred(seen["grain"])
    stroma = character.collagen + (3 * strands >> 3) + (grain >> 3)
    cells = character.collagen * 3 // 4 + (strands >> 2)
    amounts = np.where(tissue.epithelium, cells, np.where(tissue.mucin, _MUCIN[1] + (strands >> 4), stroma))
    amounts[tissue.empty] = 0
    return np.clip(amounts, 0, 255)
