"""The table of predictions of patches and tiles, and the counts kept while it is written."""

from __future__ import annotations

from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import csv

from histopipe.core.colours import COLOURS, colour_statistics

CHUNK, CHUNK_BYTES = 4096, 64 * 2**20  # patches predicted and written together at most, and their pixels
FEWEST = 256  # patches of a chunk, however large they are: fewer would leave cores idle
NAMED = 100  # unusable images that the summary names, per reason
LONGEST_NAME = 300  # letters of such a name
SORTED_TOGETHER = 2**20  # rows that are sorted at once, unless a single case has more

SCHEMA = pa.schema(
    {
        "file": pa.string(),
        "case_id": pa.string(),
        "x": pa.int32(),
        "y": pa.int32(),
        "width": pa.int32(),
        "height": pa.int32(),
        "probability": pa.float64(),
        "decision": pa.int8(),
        **dict.fromkeys(COLOURS, pa.float32()),  # from which `histopipe monitor` detects drift
    }
)


@dataclass
class PredictionTally:
    """Running counts by case and by reason, which are kept in memory instead of the patches.

    Attributes:
        by_name: whether cases and files are listed by name instead of in the order of the inputs. Pseudonyms are then
            in random order, while the order of the inputs would reveal the cases.
        parts: counts per case, one table per chunk of predictions.
        rejected: names of images that can't be predicted, by reason.
        refused: the number of such images, by reason.
        notes: the number of texts and tables next to the images.
    """

    by_name: bool = False
    parts: list[pd.DataFrame] = field(default_factory=list)
    rejected: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    refused: Counter[str] = field(default_factory=Counter)
    notes: int = 0

    def reject(self, reason: str, file: str) -> None:
        """Count an image that can't be predicted."""
        self.refused[reason] += 1
        named = self.rejected[reason]
        (insort if self.by_name else list.append)(named, file[:LONGEST_NAME])
        del named[NAMED:]

    def note(self, _: str) -> None:
        """Count a text or table file next to the images."""
        self.notes += 1

    def add(self, rows: pd.DataFrame) -> None:
        """Add predictions: a few numbers per case are kept."""
        by_case = rows.assign(placed=rows["x"].notna()).groupby("case_id", sort=False)
        sums = by_case[["decision", "probability", "placed"]].sum()
        self.parts.append(sums.assign(patches=by_case.size()))

    def cases(self) -> set[str]:
        """Return all cases with predictions."""
        return {str(case) for part in self.parts for case in part.index}

    def table(self) -> pd.DataFrame:
        """Return one row per case, in the order of the inputs or by name."""
        if not self.parts:
            return pd.DataFrame()
        sums = pd.concat(self.parts).groupby(level=0, sort=self.by_name).sum()
        shares = {
            "positive_share": sums["decision"] / sums["patches"],
            "mean_probability": sums["probability"] / sums["patches"],
        }
        table = sums.assign(**shares).rename(columns={"decision": "positive"}).reset_index()
        return table[["case_id", "patches", "positive", *shares, "placed"]]


def chunk_size(patch_size: tuple[int, int]) -> int:
    """Return how many patches of a height and width are predicted and written together."""
    return min(CHUNK, max(FEWEST, CHUNK_BYTES // (3 * patch_size[0] * patch_size[1])))


def prediction_rows(
    rows: Sequence[tuple[Any, ...]],
    patches: NDArray[np.uint8],
    probabilities: NDArray[np.float64],
    threshold: float,
) -> pd.DataFrame:
    """Return rows of the table of predictions.

    Args:
        rows: the columns up to `height`.
        patches: the pixels, from which the colour statistics are computed.
        probabilities: the probability of each patch, (patches,).
        threshold: the probability from which a patch is called positive.
    """
    part = pd.DataFrame(rows, columns=SCHEMA.names[:6])
    part["probability"] = probabilities
    part["decision"] = (part["probability"] >= threshold).astype(np.int8)
    part[COLOURS] = colour_statistics(patches)
    return part


def sort_table(table: Path, cases: pd.DataFrame) -> None:
    """Sort a Parquet table by case and file, some cases at a time, so that memory doesn't grow with it.

    Args:
        table: the file, which is replaced.
        cases: `case_id` and `patches` of every case in the table, sorted by `case_id`.
    """
    sorted_table = table.with_name(f"sorted-{table.name}")
    group = cases["patches"].cumsum() // SORTED_TOGETHER
    with pq.ParquetWriter(sorted_table, SCHEMA) as writer:
        for _, ids in cases["case_id"].groupby(group):
            within = [("case_id", ">=", ids.iloc[0]), ("case_id", "<=", ids.iloc[-1])]
            part = pq.read_table(table, filters=within, schema=SCHEMA, partitioning=None)
            writer.write_table(part.sort_by([("case_id", "ascending"), ("file", "ascending")]), CHUNK)
    sorted_table.replace(table)


def convert_to_csv(table: Path) -> Path:
    """Convert a Parquet table to CSV, one row group at a time; the Parquet file is deleted.

    Probabilities are written with all digits, so that they read back unchanged.
    """
    path = table.with_suffix(".csv")
    with pq.ParquetFile(table) as source, csv.CSVWriter(path, source.schema_arrow) as target:
        for part in source.iter_batches():
            target.write_batch(part)
    table.unlink()
    return path
