"""Stores of patches, and tables of cases behind them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from histopipe.core.workspace import Workspace
from histopipe.data.store import INDEX_FILE, REPORT_FILE, PatchStore, shard_name


def store_of(folder: Path, count: int) -> PatchStore:
    """Make a store of so many random patches in one shard."""
    patches = np.random.default_rng(0).integers(0, 256, (count, 12, 12, 3), np.uint8)
    np.save(folder / shard_name(0), patches)
    index = pd.DataFrame({"file": [f"{row}.png" for row in range(count)], "shard": 0, "row": np.arange(count)})
    index.to_parquet(folder / INDEX_FILE, index=False)
    (folder / REPORT_FILE).write_text('{"patch_size": [12, 12]}')
    return PatchStore.open(folder)


def make_cases(count: int, seed: int = 0) -> pd.DataFrame:
    """Draw cases of different sizes, with numbers of patches and positives."""
    generator = np.random.default_rng(seed)
    patches = generator.integers(50, 2000, count)
    positives = (patches * generator.beta(1.2, 3, count)).astype(int)
    return pd.DataFrame({"patches": patches, "positives": positives}, index=[f"{8800 + i}" for i in range(count)])


def write_index(workspace: Workspace, cases: pd.DataFrame, dataset: str = "idc") -> pd.DataFrame:
    """Write the index alone of a store with these cases; return it."""
    rows = [
        {"file": f"{case}/{number}.png", "case_id": case, "label": int(number < row.positives)}
        for case, row in cases.iterrows()
        for number in range(int(row.patches))
    ]
    folder = workspace.store(dataset)
    folder.mkdir(parents=True, exist_ok=True)
    index = pd.DataFrame(rows)
    index.to_parquet(folder / "index.parquet")
    return index


def small_cases(count: int = 12) -> pd.DataFrame:
    """Return small cases with both classes, the same at each call."""
    return pd.DataFrame(
        {"patches": [20 + i for i in range(count)], "positives": [5 + i % 4 for i in range(count)]},
        index=[f"c{i:02d}" for i in range(count)],
    )


def write_shards(folder: Path, *lengths: int, size: tuple[int, int] = (4, 5)) -> np.ndarray:
    """Write a store of random patches whose shards have these lengths; return its patches in the order of the index."""
    folder.mkdir(parents=True, exist_ok=True)
    patches = np.random.default_rng(0).integers(0, 256, (sum(lengths), *size, 3), np.uint8)
    parts = np.split(patches, np.cumsum(lengths)[:-1])
    for number, part in enumerate(parts):
        np.save(folder / shard_name(number), part)
    index = pd.DataFrame({"file": [f"{row}.png" for row in range(len(patches))]})
    index["case_id"] = [f"P{row % 3}" for row in range(len(patches))]
    index["label"] = np.arange(len(patches)) % 2
    index["shard"] = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    index["row"] = np.concatenate([np.arange(length, dtype=np.int32) for length in lengths])
    index.to_parquet(folder / INDEX_FILE, index=False)
    return patches
