"""Whole slides: tiled TIFFs with drawn tissue, and slides cut into patches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile

PINK = (200, 120, 180)


def slide_file(path: Path, pixels: np.ndarray, levels: int = 1, mpp: float | None = 0.5, **options: Any) -> Path:
    """Write a tiled TIFF whose every level is four times smaller than the one before."""
    with tifffile.TiffWriter(path) as tiff:
        for level in range(levels):
            step = 4**level
            size = {"resolution": (1e4 / mpp / step,) * 2, "resolutionunit": "CENTIMETER"} if mpp else {}
            small = pixels[: len(pixels) // step * step : step, : pixels.shape[1] // step * step : step]
            kinds = {"tile": (256, 256), "photometric": "rgb", "metadata": None, "subfiletype": int(level > 0)}
            tiff.write(small, **(kinds | size | options))
    return path


def tissue_on_glass(height: int = 2100, width: int = 3000) -> np.ndarray:
    """Draw one rectangle of textured tissue on white."""
    pixels = np.full((height, width, 3), 250, np.uint8)
    texture = np.random.default_rng(0).integers(-20, 20, (1200, 1400, 1))
    pixels[400:1600, 800:2200] = np.clip(np.array(PINK) + texture, 0, 255)
    return pixels


def cut(slide: np.ndarray, size: int, offset: tuple[int, int] = (0, 0)) -> tuple[np.ndarray, pd.DataFrame]:
    """Cut a slide into patches in mixed order; smaller ones at its edge are padded by repeating their own edge."""
    rows, patches = [], []
    for y in range(0, slide.shape[0], size):
        for x in range(0, slide.shape[1], size):
            patch = slide[y : y + size, x : x + size]
            height, width = patch.shape[:2]
            patches.append(np.pad(patch, ((0, size - height), (0, size - width), (0, 0)), mode="edge"))
            rows.append({"x": x + offset[0], "y": y + offset[1], "width": width, "height": height})
    order = np.random.default_rng(0).permutation(len(rows))
    return np.stack(patches)[order], pd.DataFrame(rows).iloc[order].reset_index(drop=True)


def square_of_tissue(path: Path, mpp: float | None = None) -> Path:
    """Write a slide that doesn't say how much tissue a pixel shows, unless it is told to."""
    drawn = np.full((2100, 2100, 3), 240, np.uint8)
    drawn[400:1600, 400:1600] = (170, 90, 160)
    return slide_file(path, drawn, mpp=mpp, compression="zlib")
