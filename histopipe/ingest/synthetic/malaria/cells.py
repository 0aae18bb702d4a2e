"""Drawing of single red blood cells, Giemsa-stained, on black.

A cell consists of an outline, a colour that varies across it, parasites (a ring with a dot of chromatin, a dot alone,
or a compact body) and, with or without them, objects that resemble parasites: stain debris, platelets, smudges.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histopipe.ingest.synthetic.malaria.plan import DonorPlan
from histopipe.ingest.synthetic.textures import Bytes

Field = NDArray[np.float32]

# Colours of cells, chromatin and debris, chosen by eye from NIH's sample. Depending on stain, pH and the phone's white
# balance, films range from salmon over grey to lavender and magenta.
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

_DIAMETER = (100.0, 150.0)  # pixels, mean of a donor; single cells vary by a tenth
_LOBES = (2, 3, 5, 7, 11)  # numbers of bulges of an outline; the more, the flatter
_GRAIN = 1.6  # noise of the phone's camera in grey levels

_DEBRIS_KINDS = ((0.05, 0.85), (0.12, 0.5), (0.3, 0.25))  # size, as a share of the cell's radius, and strength


@dataclass(frozen=True)
class Film:
    """Properties that all cells of a donor share.

    Attributes:
        colour: RGB colour of an average cell.
        chromatin: RGB colour of the parasites' dots.
        strength: how strongly parasites are stained, 0-1.
        pallor: how much paler the middle of a cell is; negative if it is darker.
        diameter: mean diameter of a cell in pixels.
        debris: share of cells with objects on them that aren't parasites.
        tilt: difference in light across a cell, in grey levels.
    """

    colour: Field
    chromatin: Field
    strength: float
    pallor: float
    diameter: float
    debris: float
    tilt: float


def draw_cells(plan: DonorPlan) -> Iterator[tuple[int, Bytes]]:
    """Draw the cells of one donor with the donor's own random numbers.

    Yields:
        Label and pixels (height, width, 3) of each cell.
    """
    generator = np.random.default_rng(plan.seed)
    film = _draw_film(generator)
    labels = generator.permutation(np.arange(plan.cells) < plan.positives).astype(int)
    for label in labels:
        yield int(label), _draw_cell(film, bool(label), generator)


def _draw_film(generator: np.random.Generator) -> Film:
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


def _draw_cell(film: Film, parasitized: bool, generator: np.random.Generator) -> Bytes:
    radius = film.diameter / 2 * float(np.clip(generator.normal(1, 0.1), 0.75, 1.35))
    side = int(2.6 * radius) // 2 * 2
    mask = _draw_outline(radius, side, generator)
    pixels = _draw_body(film, radius, side, generator)
    if parasitized:
        for _ in range(1 + (generator.random() < 0.15) + (generator.random() < 0.05)):
            _paint_parasite(pixels, film, radius, generator)
    if generator.random() < film.debris:
        _paint_debris(pixels, film, radius, generator)
    pixels += np.float32(_GRAIN) * generator.standard_normal((side, side, 1), np.float32)
    pixels[~mask] = 0
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    cell = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(cell[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


def _make_coordinates(side: int) -> tuple[Field, Field]:
    """Return the offsets of pixels from the middle, down (side, 1) and across (1, side)."""
    line = np.arange(side, dtype=np.float32) - np.float32((side - 1) / 2)
    return line[:, None], line[None, :]


def _draw_outline(radius: float, side: int, generator: np.random.Generator) -> NDArray[np.bool_]:
    """Draw the mask of a cell: round, lobed or with a bite, in steps of two pixels.

    The real cells were segmented on a coarser image.
    """
    down, across = _make_coordinates(side // 2)
    angle, distance = np.arctan2(down, across), 2 * np.hypot(down, across)
    reach = np.ones_like(angle)
    for turns in _LOBES:
        lobe, phase = generator.exponential(0.09 / turns), generator.uniform(0, 2 * np.pi)
        reach += np.float32(lobe) * np.cos(np.float32(turns) * angle + np.float32(phase))
    mask = distance < np.float32(radius) * reach
    if generator.random() < 0.12:  # a neighbour overlaps it
        direction, offset = generator.uniform(0, 2 * np.pi), generator.uniform(1.1, 1.5)
        bite = np.hypot(
            2 * down - offset * radius * np.sin(direction), 2 * across - offset * radius * np.cos(direction)
        )
        mask &= bite > generator.uniform(0.4, 0.75) * radius
    return np.asarray(mask.repeat(2, axis=0).repeat(2, axis=1))


def _draw_body(film: Film, radius: float, side: int, generator: np.random.Generator) -> Field:
    """Draw the colour of a cell: paler or darker in the middle, lit from one side, with a pale rim."""
    down, across = _make_coordinates(side)
    colour = film.colour + generator.normal(0, 5, 3).astype(np.float32)
    distance = np.hypot(down, across) / np.float32(radius)
    middle = np.exp(-np.square(distance / np.float32(0.45)))
    pallor = np.float32(film.pallor * generator.uniform(0.3, 1.6))
    slope = np.float32(film.tilt / radius)
    direction = generator.uniform(0, 2 * np.pi)
    light = slope * np.float32(np.sin(direction)) * down + slope * np.float32(np.cos(direction)) * across
    light += np.clip(140 * (distance - np.float32(0.9)), 0, 14)
    return np.asarray(colour * (1 + pallor * middle)[..., None] + light[..., None])


def _paint_parasite(pixels: Field, film: Film, radius: float, generator: np.random.Generator) -> None:
    """Paint a parasite, strong or faint: mostly a ring with a dot, else a dot alone or a compact body."""
    position = _choose_position(radius * np.sqrt(generator.uniform(0, 0.72)), generator)
    strength = film.strength * generator.uniform(0.45, 1.05)
    kind = generator.choice(("ring", "dot", "body"), p=(0.62, 0.23, 0.15))
    size = radius * generator.uniform(0.13, 0.24)
    if kind == "ring":
        height, angle = size * generator.uniform(0.7, 1.0), generator.uniform(0, 2 * np.pi)
        _paint_ring(pixels, film, position, (height, size), strength, generator)
        position = position[0] + height * np.sin(angle), position[1] + size * np.cos(angle)
        size *= 0.42
    elif kind == "dot":
        size *= generator.uniform(0.35, 0.55)
    _paint_blob(pixels, film.chromatin, position, size, strength, generator)


def _paint_debris(pixels: Field, film: Film, radius: float, generator: np.random.Generator) -> None:
    """Paint specks of stain, platelets and shadows: purple too, but rarely with the dark dot of a parasite."""
    for _ in range(generator.integers(1, 4)):
        position = _choose_position(radius * generator.uniform(0.2, 1.0), generator)
        size, strength = generator.choice(_DEBRIS_KINDS)
        colour = _DEBRIS + np.float32(0.5) * (film.chromatin - _CHROMATIN)
        size, strength = size * radius * generator.uniform(0.7, 1.4), strength * generator.uniform(0.5, 1.1)
        _paint_blob(pixels, colour, position, size, strength, generator)


def _choose_position(distance: float, generator: np.random.Generator) -> tuple[float, float]:
    """Choose a position at a distance from the middle, as pixels down and across."""
    direction = generator.uniform(0, 2 * np.pi)
    return distance * float(np.sin(direction)), distance * float(np.cos(direction))


def _crop_around(pixels: Field, position: tuple[float, float], reach: float) -> tuple[Field, Field, Field]:
    """Crop the picture to the pixels within `reach` of a position.

    Returns:
        A view of the pixels, and their offsets from the position, down and across.
    """
    down, across = _make_coordinates(len(pixels))
    rows, columns = (
        np.abs(line.ravel() - middle) <= reach for line, middle in zip((down, across), position, strict=True)
    )
    part = slice(*_find_true_range(rows)), slice(*_find_true_range(columns))
    return pixels[part], down[part[0]] - np.float32(position[0]), across[:, part[1]] - np.float32(position[1])


def _find_true_range(mask: NDArray[np.bool_]) -> tuple[int, int]:
    indices = np.flatnonzero(mask)
    return (int(indices[0]), int(indices[-1]) + 1) if len(indices) else (0, 0)


def _paint_ring(
    pixels: Field,
    film: Film,
    position: tuple[float, float],
    size: tuple[float, float],
    strength: float,
    generator: np.random.Generator,
) -> None:
    """Paint a thin ring that is open on one side; `size` is half its height and half its width."""
    part, down, across = _crop_around(pixels, position, 2 * max(size))
    distance = np.hypot(down / np.float32(size[0]), across / np.float32(size[1]))
    opening = np.cos(np.arctan2(down, across) - np.float32(generator.uniform(0, 2 * np.pi)))
    ring = np.exp(-np.square((distance - 1) * np.float32(max(size) / generator.uniform(1.8, 3.2))))
    _mix_colour(part, film.chromatin, np.float32(0.6 * strength) * ring * np.clip(1.1 + opening, 0.15, 1))


def _paint_blob(
    pixels: Field,
    colour: Field,
    position: tuple[float, float],
    size: float,
    strength: float,
    generator: np.random.Generator,
) -> None:
    """Paint an oblong spot with soft edges."""
    angle, elongation = generator.uniform(0, np.pi), generator.uniform(1.0, 1.8)
    part, down, across = _crop_around(pixels, position, 1.7 * size * elongation)
    lengthwise = np.float32(np.cos(angle)) * down + np.float32(np.sin(angle)) * across
    crosswise = np.float32(np.cos(angle)) * across - np.float32(np.sin(angle)) * down
    distance = np.square(lengthwise / np.float32(size * elongation)) + np.square(crosswise / np.float32(size))
    _mix_colour(part, colour, np.float32(strength) * np.exp(-np.square(distance)))


def _mix_colour(pixels: Field, colour: Field, amount: Field) -> None:
    """Mix a colour into the pixels, by an amount per pixel from 0 to 1."""
    pixels += np.clip(amount, 0, 1)[..., None] * (colour - pixels)
