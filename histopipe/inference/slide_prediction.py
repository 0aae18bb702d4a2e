"""Whole slides graded: tissue found, cut into tiles, each slide whole or not at all."""

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
from histopipe.inference.graded import GradedSlide
from histopipe.inference.inputs import SlideFound
from histopipe.inference.maps import draw_slide_map
from histopipe.inference.overlays import Overlay, write_overlay
from histopipe.inference.pictures import FOLDER as TISSUE
from histopipe.inference.pictures import draw_slide_picture
from histopipe.inference.record import SlideRow
from histopipe.inference.slides.slide import Slide, open_slide
from histopipe.inference.slides.tiles import Grid, Tile, grid_of, read_tiles, tissue_tiles
from histopipe.inference.slides.tissue import find_tissue, overview
from histopipe.inference.table import SCHEMA, Tally, chunk_size, graded_rows
from histopipe.ingest.datasets import MemberRejected
from histopipe.ingest.images import Patch

MAPS, OVERLAYS = "maps", "overlays"


@dataclass(frozen=True)
class SlideOptions:
    """How slides are read and what is made of them.

    Attributes:
        mpp: micrometres to a pixel of the patches that the model was trained on; None where nobody says.
        slide_mpp: the same of level 0 of every slide; None to take each file's own word.
        overlays: what else to write of each slide.
        tissue: whether to write a small picture of each case's tissue as well.
    """

    mpp: float | None = None
    slide_mpp: float | None = None
    overlays: Sequence[Overlay] = ()
    tissue: bool = False


@dataclass(frozen=True)
class SlideGrader:
    """Grades slides, one after the other.

    Attributes:
        probabilities: of patches, uint8 (patches, height, width, 3).
        patch_size: their height and width.
        point: the model's operating point.
        options: how slides are read.
        folder: of the result, for maps and overlays.
        tally: told of what is graded and of what is set aside.
    """

    probabilities: Callable[[Any], Any]
    patch_size: tuple[int, int]
    point: OperatingPoint
    options: SlideOptions
    folder: Path
    tally: Tally

    def grade(self, slides: Sequence[SlideFound], writer: pq.ParquetWriter) -> list[SlideRow]:
        """Grade slides into an open table; returns what `slides.csv` says of each."""
        if not slides:
            return []
        from openslide import OpenSlideError

        told = []
        title = f"predict {self.point['data_set']} slides"
        with tqdm(total=0, desc=title, unit="tile", unit_scale=True, file=sys.stderr) as bar:
            for number, one in enumerate(slides, start=1):
                bar.set_postfix_str(f"slide {number} of {len(slides)}")
                try:
                    told.append(self._graded(one, writer, bar))
                except MemberRejected as reason:
                    self.tally.reject(str(reason), one.file)
                except OpenSlideError:
                    self.tally.reject("damaged slide", one.file)
        return told

    def _graded(self, one: SlideFound, writer: pq.ParquetWriter, bar: tqdm) -> SlideRow:
        assert self.options.mpp is not None  # checked before the first slide is opened
        with open_slide(one.path, self.options.slide_mpp) as slide:
            grid = grid_of(slide, self.options.mpp, self.patch_size)
            seen = overview(slide, min(grid.side))
            mask = find_tissue(seen)
            tiles = tissue_tiles(grid, seen, mask)
            bar.total = (bar.total or 0) + len(tiles)
            bar.refresh()
            parts = list(self._tables(one, read_tiles(slide, grid, tiles), bar))
            graded = GradedSlide(one.case_id, pd.concat(parts), grid, seen, slide.pixel, slide.bounds, self.point)
            tissue = float(mask.mean()) * _area(slide)
        for part in parts:
            writer.write_table(pa.Table.from_pandas(part, SCHEMA, preserve_index=False))
            self.tally.add(part)
        self._draw(graded)
        return _row(one, slide, grid, graded, tissue)

    def _tables(self, one: SlideFound, tiles: Iterator[tuple[Tile, Patch]], bar: tqdm) -> Iterator[pd.DataFrame]:
        while chunk := list(islice(tiles, chunk_size(self.patch_size))):
            rows = [_place(one, tile) for tile, _ in chunk]
            patches = np.stack([patch for _, patch in chunk])
            yield graded_rows(rows, patches, self.probabilities(patches), self.point["threshold"])
            bar.update(len(chunk))

    def _draw(self, graded: GradedSlide) -> None:
        draw_slide_map(graded, self.folder / MAPS)
        if self.options.tissue:
            draw_slide_picture(graded, self.folder / TISSUE)
        for kind in dict.fromkeys(self.options.overlays):
            write_overlay(kind, graded, self.folder / OVERLAYS)


def _place(one: SlideFound, tile: Tile) -> tuple[Any, ...]:
    """A tile's row of the table, up to `height`."""
    left, top = tile.left, tile.top
    return f"{one.file}#x{left}_y{top}", one.case_id, left, top, tile.right - left, tile.bottom - top


def _area(slide: Slide) -> float:
    """Of the whole slide, in square millimetres."""
    return slide.size[0] * slide.pixel.x * slide.size[1] * slide.pixel.y / 1e6


def _row(one: SlideFound, slide: Slide, grid: Grid, graded: GradedSlide, tissue: float) -> SlideRow:
    width, height = grid.size
    return {
        "case_id": one.case_id,
        "file": one.file,
        "width": width,
        "height": height,
        "mpp_x": slide.pixel.x,
        "mpp_y": slide.pixel.y,
        "mpp_from": slide.pixel.source,
        "tissue_mm2": round(tissue, 3),
        "tiles": len(graded.tiles),
        "positive": int(graded.tiles["decision"].sum()),
    }
