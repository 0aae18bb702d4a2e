"""The table of graded patches and tiles, and what is kept of it while it is written."""

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

CHUNK, CHUNK_BYTES = 4096, 64 * 2**20  # patches graded and written together at most, and their pixels
FEWEST = 256  # of a chunk, however large the patches: fewer would leave cores idle
NAMED = 100  # unusable images that the summary names, of each reason
LONGEST_NAME = 300  # letters of theirs
SORTED_TOGETHER = 2**20  # rows that are sorted at once, but for a case that has more

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
        **dict.fromkeys(COLOURS, pa.float32()),  # by which `histopipe monitor` tells drift
    }
)


@dataclass
class Tally:
    """What was seen so far, by case and by reason: all that is held of patches that were written.

    Attributes:
        by_name: whether cases and files are told by their names, not as they came: the order of pseudonyms is then
            that of chance, where the order of the inputs would tell who is who.
        rejected, refused: names, and how many, of what can't be graded, by reason.
        notes: how many texts and tables lay beside the images.
    """

    by_name: bool = False
    parts: list[pd.DataFrame] = field(default_factory=list)
    rejected: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    refused: Counter[str] = field(default_factory=Counter)
    notes: int = 0

    def reject(self, reason: str, file: str) -> None:
        """Note an image that can't be graded."""
        self.refused[reason] += 1
        named = self.rejected[reason]
        (insort if self.by_name else list.append)(named, file[:LONGEST_NAME])
        del named[NAMED:]

    def note(self, _: str) -> None:
        """Count a file that nobody takes for an image."""
        self.notes += 1

    def add(self, rows: pd.DataFrame) -> None:
        """Note graded patches: a few numbers of each case."""
        by_case = rows.assign(placed=rows["x"].notna()).groupby("case_id", sort=False)
        sums = by_case[["decision", "probability", "placed"]].sum()
        self.parts.append(sums.assign(patches=by_case.size()))

    def cases(self) -> set[str]:
        """Every case of which something was graded."""
        return {str(case) for part in self.parts for case in part.index}

    def table(self) -> pd.DataFrame:
        """One row per case, in the order in which they came, or by name."""
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
    """How many patches are graded and written together; `patch_size` is their height and width."""
    return min(CHUNK, max(FEWEST, CHUNK_BYTES // (3 * patch_size[0] * patch_size[1])))


def graded_rows(
    rows: Sequence[tuple[Any, ...]],
    patches: NDArray[np.uint8],
    probabilities: NDArray[np.float64],
    threshold: float,
) -> pd.DataFrame:
    """Part of the table: `rows` hold the columns up to `height`; of the patches, its colours are told."""
    part = pd.DataFrame(rows, columns=SCHEMA.names[:6])
    part["probability"] = probabilities
    part["decision"] = (part["probability"] >= threshold).astype(np.int8)
    part[COLOURS] = colour_statistics(patches)
    return part


def sort_table(table: Path, cases: pd.DataFrame) -> None:
    """Sort a Parquet table by case and file, some cases at a time, so that memory doesn't grow with it.

    Args:
        table: the file, which is replaced.
        cases: `case_id` and `patches` of every case in it, sorted by the first.
    """
    beside = table.with_name(f"sorted-{table.name}")
    group = cases["patches"].cumsum() // SORTED_TOGETHER
    with pq.ParquetWriter(beside, SCHEMA) as writer:
        for _, ids in cases["case_id"].groupby(group):
            among = [("case_id", ">=", ids.iloc[0]), ("case_id", "<=", ids.iloc[-1])]
            part = pq.read_table(table, filters=among, schema=SCHEMA, partitioning=None)
            writer.write_table(part.sort_by([("case_id", "ascending"), ("file", "ascending")]), CHUNK)
    beside.replace(table)


def written_as_csv(table: Path) -> Path:
    """Turn a Parquet table into a CSV one beside it, row group by row group; the first is gone then.

    Probabilities are written so that they read back as they were.
    """
    path = table.with_suffix(".csv")
    with pq.ParquetFile(table) as source, csv.CSVWriter(path, source.schema_arrow) as target:
        for part in source.iter_batches():
            target.write_batch(part)
    table.unlink()
    return path
