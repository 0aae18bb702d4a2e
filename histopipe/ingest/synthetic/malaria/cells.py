"""Draw single red cells, Giemsa-stained, on black.

A cell is an outline, a colour that bends over it, and what lies in or on it: parasites (a ring with a dot of chromatin,
a dot alone, or a compact body) and, with or without them, what is mistaken for them: stain debris, platelets, smudges.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histopipe.ingest.synthetic.malaria.plan import DonorPlan
from histopipe.ingest.synthetic.textures import Bytes

Field = NDArray[np.float32]

# Colours of cells, of chromatin and of the parasite's body, and how they vary: picked by eye from NIH's sample, where
# films run from salmon over grey to lavender and magenta, by stain, pH and the phone's white balance.
_CELL_COLOURS = np.array(
    [
        (222, 158, 146),
        (214, 150, 150),
        (203, 172, 172),
        (181, 178, 204),
        (160, 168, 200),
        (140, 128, 190),
        (196, 98, 148),
    ],
    np.float32,
)
_CELL_WEIGHTS = (0.3, 0.2, 0.15, 0.15, 0.1, 0.05, 0.05)
_CHROMATIN = np.array((150, 20, 110), np.float32)
_DEBRIS = np.array((120, 70, 130), np.float32)

_DIAMETER = (100.0, 150.0)  # pixels, a donor's mean; single cells vary by a tenth
_LOBES = (2, 3, 5, 7, 11)  # how often an outline bulges; the more often, the less
_GRAIN = 1.6  # grey levels of the phone's noise

_DEBRIS_KINDS = ((0.05, 0.85), (0.12, 0.5), (0.3, 0.25))  # size, as a share of the cell's radius, and strength


@dataclass(frozen=True)
class Film:
    """What a donor's cells have in common.

    Attributes:
        colour: of an average cell, RGB.
        chromatin: of the parasites' dots, RGB.
        strength: how strongly parasites took the stain, 0-1.
        pallor: how much paler the middle of a cell is; negative where it is darker.
        diameter: pixels.
        debris: share of cells with something on them that isn't a parasite.
        tilt: how much the light falls off across a cell, in grey levels.
    """

    colour: Field
    chromatin: Field
    strength: float
    pallor: float
    diameter: float
    debris: float
    tilt: float


def draw_cells(plan: DonorPlan) -> Iterator[tuple[int, Bytes]]:
    """Label and pixels (height, width, 3) of every cell of one donor, from the donor's own random stream."""
    generator = np.random.default_rng(plan.seed)
    film = _film(generator)
    labels = generator.permutation(np.arange(plan.cells) < plan.positives).astype(int)
    for label in labels:
        yield int(label), _cell(film, bool(label), generator)


def _film(generator: np.random.Generator) -> Film:
    colour = _CELL_COLOURS[generator.choice(len(_CELL_COLOURS), p=_CELL_WEIGHTS)]
    return Film(
        colour=(colour * generator.uniform(0.86, 1.08) + generator.normal(0, 7, 3)).astype(np.float32),
        chromatin=(_CHROMATIN + generator.normal(0, 14, 3)).astype(np.float32),
        strength=float(generator.uniform(0.45, 0.95)),
        pallor=float(generator.normal(0.05, 0.07)),
        diameter=float(generator.uniform(*_DIAMETER)),
        debris=float(generator.uniform(0.1, 0.5)),
        tilt=float(generator.uniform(0, 14)),
    )


def _cell(film: Film, parasitized: bool, generator: np.random.Generator) -> Bytes:
    radius = film.diameter / 2 * float(np.clip(generator.normal(1, 0.1), 0.75, 1.35))
    side = int(2.6 * radius) // 2 * 2
    mask = _outline(radius, side, generator)
    pixels = _body(film, radius, side, generator)
    if parasitized:
        for _ in range(1 + (generator.random() < 0.15) + (generator.random() < 0.05)):
            _paint_parasite(pixels, film, radius, generator)
    if generator.random() < film.debris:
        _paint_debris(pixels, film, radius, generator)
    pixels += np.float32(_GRAIN) * generator.standard_normal((side, side, 1), np.float32)
    pixels[~mask] = 0
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    seen = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(seen[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


def _coordinates(side: int) -> tuple[Field, Field]:
    """Pixels below and right of the middle, (side, 1) and (1, side)."""
    line = np.arange(side, dtype=np.float32) - np.float32((side - 1) / 2)
    return line[:, None], line[None, :]


def _outline(radius: float, side: int, generator: np.random.Generator) -> NDArray[np.bool_]:
    """Round, lobed or bitten, in steps of two pixels: the cells were cut out by a coarser image."""
    down, across = _coordinates(side // 2)
    angle, distance = np.arctan2(down, across), 2 * np.hypot(down, across)
    reach = np.ones_like(angle)
    for turns in _LOBES:
        lobe, phase = generator.exponential(0.09 / turns), generator.uniform(0, 2 * np.pi)
        reach += np.float32(lobe) * np.cos(np.float32(turns) * angle + np.float32(phase))
    mask = distance < np.float32(radius) * reach
    if generator.random() < 0.12:  # a neighbour lay over it
        way, far = generator.uniform(0, 2 * np.pi), generator.uniform(1.1, 1.5)
        bite = np.hypot(2 * down - far * radius * np.sin(way), 2 * across - far * radius * np.cos(way))
        mask &= bite > generator.uniform(0.4, 0.75) * radius
    return np.asarray(mask.repeat(2, axis=0).repeat(2, axis=1))


def _body(film: Film, radius: float, side: int, generator: np.random.Generator) -> Field:
    """The cell's own colour: paler or darker in the middle, lit from one side, a pale rim."""
    down, across = _coordinates(side)
    colour = film.colour + generator.normal(0, 5, 3).astype(np.float32)
    distance = np.hypot(down, across) / np.float32(radius)
    middle = np.exp(-np.square(distance / np.float32(0.45)))
    pallor = np.float32(film.pallor * generator.uniform(0.3, 1.6))
    fall = np.float32(film.tilt / radius)
    way = generator.uniform(0, 2 * np.pi)
    light = fall * np.float32(np.sin(way)) * down + fall * np.float32(np.cos(way)) * across
    light += np.clip(140 * (distance - np.float32(0.9)), 0, 14)
    return np.asarray(colour * (1 + pallor * middle)[..., None] + light[..., None])


def _paint_parasite(pixels: Field, film: Film, radius: float, generator: np.random.Generator) -> None:
    """A ring with its dot most often, a dot alone, or a compact body; some are faint."""
    place = _place(radius * np.sqrt(generator.uniform(0, 0.72)), generator)
    strength = film.strength * generator.uniform(0.45, 1.05)
    kind = generator.choice(("ring", "dot", "body"), p=(0.62, 0.23, 0.15))
    size = radius * generator.uniform(0.13, 0.24)
    if kind == "ring":
        tall, turn = size * generator.uniform(0.7, 1.0), generator.uniform(0, 2 * np.pi)
        _paint_ring(pixels, film, place, (tall, size), strength, generator)
        place = place[0] + tall * np.sin(turn), place[1] + size * np.cos(turn)
        size *= 0.42
    elif kind == "dot":
        size *= generator.uniform(0.35, 0.55)
    _paint_blob(pixels, film.chromatin, place, size, strength, generator)


def _paint_debris(pixels: Field, film: Film, radius: float, generator: np.random.Generator) -> None:
    """Specks of stain, platelets, shadows: purple too, but seldom with the parasite's dark dot."""
    for _ in range(generator.integers(1, 4)):
        place = _place(radius * generator.uniform(0.2, 1.0), generator)
        size, strength = generator.choice(_DEBRIS_KINDS)
        colour = _DEBRIS + np.float32(0.5) * (film.chromatin - _CHROMATIN)
        size, strength = size * radius * generator.uniform(0.7, 1.4), strength * generator.uniform(0.5, 1.1)
        _paint_blob(pixels, colour, place, size, strength, generator)


def _place(far: float, generator: np.random.Generator) -> tuple[float, float]:
    """Pixels below and right of the middle, in any direction."""
    way = generator.uniform(0, 2 * np.pi)
    return far * float(np.sin(way)), far * float(np.cos(way))


def _around(pixels: Field, place: tuple[float, float], reach: float) -> tuple[Field, Field, Field]:
    """The part of the picture within `reach` of a place, and how far below and right of it each of its pixels is."""
    down, across = _coordinates(len(pixels))
    rows, columns = (np.abs(line.ravel() - middle) <= reach for line, middle in zip((down, across), place, strict=True))
    part = slice(*_ends(rows)), slice(*_ends(columns))
    return pixels[part], down[part[0]] - np.float32(place[0]), across[:, part[1]] - np.float32(place[1])


def _ends(mask: NDArray[np.bool_]) -> tuple[int, int]:
    places = np.flatnonzero(mask)
    return (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0)


def _paint_ring(
    pixels: Field,
    film: Film,
    place: tuple[float, float],
    size: tuple[float, float],
    strength: float,
    generator: np.random.Generator,
) -> None:
    """A thin ring, open on one side, of half heights and widths `size`."""
    part, down, across = _around(pixels, place, 2 * max(size))
    distance = np.hypot(down / np.float32(size[0]), across / np.float32(size[1]))
    opening = np.cos(np.arctan2(down, across) - np.float32(generator.uniform(0, 2 * np.pi)))
    ring = np.exp(-np.square((distance - 1) * np.float32(max(size) / generator.uniform(1.8, 3.2))))
    _stain(part, film.chromatin, np.float32(0.6 * strength) * ring * np.clip(1.1 + opening, 0.15, 1))


def _paint_blob(
    pixels: Field,
    colour: Field,
    place: tuple[float, float],
    size: float,
    strength: float,
    generator: np.random.Generator,
) -> None:
    """A soft-edged spot, longer than wide."""
    turn, long = generator.uniform(0, np.pi), generator.uniform(1.0, 1.8)
    part, down, across = _around(pixels, place, 1.7 * size * long)
    along = np.float32(np.cos(turn)) * down + np.float32(np.sin(turn)) * across
    athwart = np.float32(np.cos(turn)) * across - np.float32(np.sin(turn)) * down
    distance = np.square(along / np.float32(size * long)) + np.square(athwart / np.float32(size))
    _stain(part, colour, np.float32(strength) * np.exp(-np.square(distance)))


def _stain(pixels: Field, colour: Field, amount: Field) -> None:
    """Mix a colour in, by an amount per pixel from 0 to 1."""
    pixels += np.clip(amount, 0, 1)[..., None] * (colour - pixels)
