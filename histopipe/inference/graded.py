"""A slide whose tiles have probabilities: what maps and overlays are made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histopipe.core.operating_point import OperatingPoint
from histopipe.inference.slides.pixel_size import PixelSize
from histopipe.inference.slides.slide import Bounds
from histopipe.inference.slides.tiles import Grid
from histopipe.inference.slides.tissue import Overview


@dataclass(frozen=True)
class GradedSlide:
    """One slide, graded.

    Attributes:
        case_id: what it is called in everything that is written.
        tiles: a row per tile, as `predictions.parquet` has them.
        grid: on which the tiles lie.
        seen: the whole slide, small.
        pixel: micrometres to a pixel of level 0.
        bounds: as `Slide` has them; viewers count from their corner.
        point: the operating point: threshold and names of the classes.
    """

    case_id: str
    tiles: pd.DataFrame
    grid: Grid
    seen: Overview
    pixel: PixelSize
    bounds: Bounds
    point: OperatingPoint

    @property
    def classes(self) -> tuple[str, str]:
        """The negative class, then the positive one."""
        return self.point["negative_class"], self.point["positive_class"]

    def on_grid(self, column: str) -> NDArray[np.float64]:
        """A column of the tiles, (rows, columns); NaN where there is no tile."""
        values = np.full(self.grid.shape, np.nan)
        across, down = self.grid.side
        columns = np.rint(self.tiles["x"].to_numpy() / across).astype(int)
        rows = np.rint(self.tiles["y"].to_numpy() / down).astype(int)
        values[rows, columns] = self.tiles[column]
        return values
