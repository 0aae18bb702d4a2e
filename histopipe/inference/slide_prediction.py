"""Prediction of whole slides: find tissue, cut it into tiles, predict them; each slide completely or not at all."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from histopipe.core.operating_point import OperatingPoint
from histopipe.inference.inputs import SlideInput
from histopipe.inference.maps import draw_slide_map
from histopipe.inference.overlays import Overlay, write_overlay
from histopipe.inference.pictures import FOLDER as TISSUE
from histopipe.inference.pictures import draw_slide_picture
from histopipe.inference.predicted_slide import PredictedSlide
from histopipe.inference.record import SlideRow
from histopipe.inference.slides.slide import Slide, open_slide
from histopipe.inference.slides.tiles import Grid, Tile, make_grid, read_tiles, tissue_tiles
from histopipe.inference.slides.tissue import find_tissue, read_overview
from histopipe.inference.table import SCHEMA, PredictionTally, chunk_size, prediction_rows
from histopipe.ingest.datasets import MemberRejected
from histopipe.ingest.images import Patch

MAPS, OVERLAYS = "maps", "overlays"


@dataclass(frozen=True)
class SlideOptions:
    """Options for reading slides and for the files written about them.

    Attributes:
        mpp: pixel size of the patches that the model was trained on, in micrometres; None if unknown.
        slide_mpp: pixel size of level 0 of every slide, in micrometres; None to use the value in each file.
        overlays: the kinds of overlays to write for each slide.
        tissue: whether to write a small picture of each case's tissue as well.
    """

    mpp: float | None = None
    slide_mpp: float | None = None
    overlays: Sequence[Overlay] = ()
    tissue: bool = False


@dataclass(frozen=True)
class SlidePredictor:
    """A predictor for whole slides.

    Attributes:
        probabilities: computes the probabilities of patches, uint8 (patches, height, width, 3).
        patch_size: height and width of the patches, in pixels.
        point: the model's operating point.
        options: options for reading slides.
        folder: the output folder, for maps and overlays.
        tally: counts what is predicted and what is set aside.
    """

    probabilities: Callable[[Any], Any]
    patch_size: tuple[int, int]
    point: OperatingPoint
    options: SlideOptions
    folder: Path
    tally: PredictionTally

    def predict(self, slides: Sequence[SlideInput], writer: pq.ParquetWriter) -> list[SlideRow]:
        """Predict slides and write their tiles into an open table; return their rows of `slides.csv`."""
        if not slides:
            return []
        from openslide import OpenSlideError

        rows = []
        title = f"predict {self.point['data_set']} slides"
        with tqdm(total=0, desc=title, unit="tile", unit_scale=True, file=sys.stderr) as bar:
            for number, slide in enumerate(slides, start=1):
                bar.set_postfix_str(f"slide {number} of {len(slides)}")
                try:
                    rows.append(self._predict_slide(slide, writer, bar))
                except MemberRejected as reason:
                    self.tally.reject(str(reason), slide.file)
                except OpenSlideError:
                    self.tally.reject("damaged slide", slide.file)
        return rows

    def _predict_slide(self, slide_input: SlideInput, writer: pq.ParquetWriter, bar: tqdm) -> SlideRow:
        assert self.options.mpp is not None  # checked before the first slide is opened
        with open_slide(slide_input.path, self.options.slide_mpp) as slide:
            grid = make_grid(slide, self.options.mpp, self.patch_size)
            overview = read_overview(slide, min(grid.side))
            mask = find_tissue(overview)
            tiles = tissue_tiles(grid, overview, mask)
            bar.total = (bar.total or 0) + len(tiles)
            bar.refresh()
            parts = list(self._tables(slide_input, read_tiles(slide, grid, tiles), bar))
            predicted = PredictedSlide(
                slide_input.case_id, pd.concat(parts), grid, overview, slide.pixel, slide.bounds, self.point
            )
            tissue = float(mask.mean()) * _area(slide)
        for part in parts:
            writer.write_table(pa.Table.from_pandas(part, SCHEMA, preserve_index=False))
            self.tally.add(part)
        self._draw(predicted)
        return _row(slide_input, slide, grid, predicted, tissue)

    def _tables(self, slide: SlideInput, tiles: Iterator[tuple[Tile, Patch]], bar: tqdm) -> Iterator[pd.DataFrame]:
        while chunk := list(islice(tiles, chunk_size(self.patch_size))):
            rows = [_tile_row(slide, tile) for tile, _ in chunk]
            patches = np.stack([patch for _, patch in chunk])
            yield prediction_rows(rows, patches, self.probabilities(patches), self.point["threshold"])
            bar.update(len(chunk))

    def _draw(self, slide: PredictedSlide) -> None:
        draw_slide_map(slide, self.folder / MAPS)
        if self.options.tissue:
            draw_slide_picture(slide, self.folder / TISSUE)
        for kind in dict.fromkeys(self.options.overlays):
            write_overlay(kind, slide, self.folder / OVERLAYS)


def _tile_row(slide: SlideInput, tile: Tile) -> tuple[Any, ...]:
    """Return a tile's row of the table, up to column `height`."""
    left, top = tile.left, tile.top
    return f"{slide.file}#x{left}_y{top}", slide.case_id, left, top, tile.right - left, tile.bottom - top


def _area(slide: Slide) -> float:
    """Compute the area of a whole slide in square millimetres."""
    return slide.size[0] * slide.pixel.x * slide.size[1] * slide.pixel.y / 1e6


def _row(slide_input: SlideInput, slide: Slide, grid: Grid, predicted: PredictedSlide, tissue: float) -> SlideRow:
    width, height = grid.size
    return {
        "case_id": slide_input.case_id,
        "file": slide_input.file,
        "width": width,
        "height": height,
        "mpp_x": slide.pixel.x,
        "mpp_y": slide.pixel.y,
        "mpp_from": slide.pixel.source,
        "tissue_mm2": round(tissue, 3),
        "tiles": len(predicted.tiles),
        "positive": int(predicted.tiles["decision"].sum()),
    }
