"""The packed patch store: a few memory-mapped arrays and one index, instead of 277,524 files.

Opening a store reads only the index; a random batch is gathered from the mapped shards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histopipe.core.cases.ids import with_normal_ids
from histopipe.core.cases.readings import BEFORE, READING, Reading, accession_of, recorded_reading
from histopipe.core.errors import StoreError
from histopipe.core.files import read_json, restore_command

INDEX_FILE = "index.parquet"
REPORT_FILE = "report.json"
SHARD_BYTES = 32 * 2**20  # few files for DVC to hash, yet small enough to build one per core in memory

Patches = NDArray[np.uint8]  # (count, height, width, 3), RGB
Rows = NDArray[np.int64]


class SetAsideFiles(TypedDict):
    """Members of an archive that ingest set aside for one reason: a few by name, many by folder.

    Attributes:
        count: the number of members.
        bad: whether they were meant to be patches.
        files: all of their names.
        folders: the number of members per folder, if there are too many names.
    """

    count: int
    bad: bool
    files: NotRequired[list[str]]
    folders: NotRequired[dict[str, int]]


class ManifestCounts(TypedDict):
    """Counts of a manifest's files by how they matched the archive's members.

    Attributes:
        listed: the number of rows of the manifest.
        matched_as_listed: the number of files with exactly a member's name.
        matched_otherwise: the number of files that matched a member in another way.
        examples: a few of the latter, each with its name in the manifest and in the archive.
    """

    listed: int
    matched_as_listed: int
    matched_otherwise: int
    examples: list[list[str]]


class StoreRecord(TypedDict):
    """The content of a store's `report.json`.

    Attributes:
        dataset: the data set's name.
        members: the number of files in the archive.
        patches, cases: numbers of patches and cases in the store.
        positive: the number of patches of the positive class.
        classes: names of the negative and of the positive class.
        patch_size: height and width of stored patches, in pixels.
        image_size: the default side of a network's input, in pixels.
        undersized: the number of patches that were smaller in the archive.
        second_copies: the number of members that repeat another one's name.
        look_alike_cases: groups of case ids that a reader may take for one.
        same_pixels_in_two_cases: the number of patches whose pixels also occur in another case.
        bad: the number of members that were meant to be patches and can't be used.
        set_aside: members that aren't in the store, by reason.
        case_reading: the reading of case ids, in data sets that have a choice.
        manifest: counts of the manifest, in data sets that have one.
        published: counts of the complete data set.
    """

    dataset: str
    members: int
    patches: int
    cases: int
    positive: int
    classes: list[str]
    patch_size: list[int]
    image_size: int
    undersized: int
    second_copies: int
    look_alike_cases: list[list[str]]
    same_pixels_in_two_cases: int
    bad: int
    set_aside: dict[str, SetAsideFiles]
    case_reading: NotRequired[Reading]
    manifest: NotRequired[ManifestCounts]
    published: NotRequired[dict[str, int]]


def shard_name(number: int) -> str:
    """Return the file name of a shard: `patches-00003.npy`."""
    return f"patches-{number:05d}.npy"


def shard_length(patch_size: tuple[int, int]) -> int:
    """Return how many patches of that height and width one shard holds."""
    return max(1, SHARD_BYTES // (patch_size[0] * patch_size[1] * 3))


@dataclass(frozen=True)
class PatchStore:
    """A store of patches with their index.

    Attributes:
        folder: the folder of the store.
        index: one row per patch, in the order of the shards.
        shards: the mapped arrays, each (patches, height, width, 3) uint8.

    Example:
        >>> store = PatchStore.open(Path("data/store/idc"))
        >>> positives = store.gather(np.flatnonzero(store.index["label"] == 1))
    """

    folder: Path
    index: pd.DataFrame
    shards: Sequence[Patches]

    @classmethod
    def open(cls, folder: Path) -> PatchStore:
        """Map the shards of `folder` and read its index.

        Raises:
            StoreError: a part is missing, damaged or doesn't fit the others.
        """
        index = read_index(folder)
        count = int(index["shard"].max()) + 1 if len(index) else 0
        shards = [_map_shard(folder / shard_name(number)) for number in range(count)]
        lengths = index["shard"].value_counts().to_dict()
        for number, shard in enumerate(shards):
            if len(shard) != lengths.get(number, 0):
                raise StoreError(
                    f"{folder / shard_name(number)} holds {len(shard)} patches but the index lists "
                    f"{lengths.get(number, 0)}: run `histopipe ingest {folder.name}`"
                )
        return cls(folder, index, shards)

    @cached_property
    def _shard_numbers(self) -> NDArray[np.int32]:
        return self.index["shard"].to_numpy()

    @cached_property
    def _rows_in_shards(self) -> NDArray[np.int32]:
        return self.index["row"].to_numpy()

    @property
    def patch_size(self) -> tuple[int, int]:
        """Height and width of every stored patch, in pixels."""
        height, width = self.shards[0].shape[1:3]
        return int(height), int(width)

    def gather(self, rows: Rows) -> Patches:
        """Copy the patches at `rows` (positions in the index) into one array, in that order."""
        numbers, positions = self._shard_numbers[rows], self._rows_in_shards[rows]
        batch = np.empty((len(rows), *self.patch_size, 3), np.uint8)
        for number in np.unique(numbers):
            selected = numbers == number
            batch[selected] = self.shards[number][positions[selected]]
        return batch


def read_index(folder: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read a store's index, with case ids in normal form even if an earlier version wrote them otherwise.

    Args:
        folder: the folder of the store.
        columns: the columns to read; None reads all of them.

    Raises:
        StoreError: the index is missing or can't be read.
    """
    path = folder / INDEX_FILE
    try:
        index = pd.read_parquet(path, columns=None if columns is None else list(columns))
    except FileNotFoundError:
        raise StoreError(f"{path} is missing: run `dvc repro ingest@{folder.name}`") from None
    except (OSError, ValueError) as problem:
        raise StoreError(f"{path} can't be read ({problem}): {restore_command(folder)}") from None
    return with_normal_ids(index, whole_column=True) if "case_id" in index else index


def read_store_record(folder: Path) -> StoreRecord:
    """Read the record that ingest wrote into a store's folder.

    Raises:
        HistopipeError: the record is missing or damaged.
    """
    report: StoreRecord = read_json(folder / REPORT_FILE)
    return report


def require_reading(folder: Path, reading: Reading | None) -> None:
    """Check that a store's cases were read as `params.yaml` asks.

    Args:
        folder: the folder of the store.
        reading: the reading of case ids; None where the data set's names leave no choice.

    Raises:
        StoreError: the store was made under the other reading.
    """
    if reading is None:
        return
    report = read_store_record(folder) if (folder / REPORT_FILE).exists() else None
    if report and READING in report:
        made = recorded_reading(report, folder.name)
    else:  # before there was a choice; without letters in any id both readings are the same
        ids = read_index(folder, ("case_id",))["case_id"].unique()
        made = BEFORE if any(accession_of(case) != case for case in ids) else reading
    if made != reading:
        raise StoreError(
            f"{folder} was ingested with `case: {made}`, but {folder.name}.case in params.yaml is {reading}: "
            f"run `dvc repro ingest@{folder.name}`, after which cases are divided and models trained again"
        )


def _map_shard(path: Path) -> Patches:
    try:
        shard: Patches = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise StoreError(f"{path} is missing: {restore_command(path.parent)}") from None
    except (EOFError, OSError, ValueError) as problem:
        raise StoreError(f"{path} can't be read ({problem}): {restore_command(path.parent)}") from None
    if shard.dtype != np.uint8 or shard.ndim != 4 or shard.shape[-1] != 3:
        raise StoreError(f"{path} holds {shard.dtype} {shard.shape}, not RGB patches: {restore_command(path.parent)}")
    return shard
