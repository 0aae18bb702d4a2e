"""A slide with predictions for its tiles, from which maps and overlays are drawn."""

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
class PredictedSlide:
    """A slide with the predictions for its tiles.

    Attributes:
        case_id: its case id, or the pseudonym that replaces it in all outputs.
        tiles: one row per tile, with the columns of `predictions.parquet`.
        grid: the grid of the tiles.
        overview: the whole slide, small.
        pixel: the size of a pixel of level 0, in micrometres.
        bounds: left, top, width and height of the scanned area, in pixels of level 0; viewers count from its corner.
        point: the operating point, with the threshold and the names of the classes.
    """

    case_id: str
    tiles: pd.DataFrame
    grid: Grid
    overview: Overview
    pixel: PixelSize
    bounds: Bounds
    point: OperatingPoint

    @property
    def classes(self) -> tuple[str, str]:
        """The names of the negative and the positive class."""
        return self.point["negative_class"], self.point["positive_class"]

    def on_grid(self, column: str) -> NDArray[np.float64]:
        """Return a column of the tiles as an array, (rows, columns); NaN where there is no tile."""
        values = np.full(self.grid.shape, np.nan)
        across, down = self.grid.side
        columns = np.rint(self.tiles["x"].to_numpy() / across).astype(int)
        rows = np.rint(self.tiles["y"].to_numpy() / down).astype(int)
        values[rows, columns] = self.tiles[column]
        return values
