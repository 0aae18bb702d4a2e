"""Reading of splits: which patch belongs to which. Every reading asserts that they are disjoint."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from histopipe.core.cases.ids import normal_id, spell_out, with_normal_ids
from histopipe.core.errors import SplitError
from histopipe.core.files import restore_command

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """A split file that was read once, since it may be replaced a moment later.

    Attributes:
        path: the path of the file.
        table: columns `case_id,split[,fold]`, or `file,case_id,split` for an image-level split.
        digest: the SHA-256 of the bytes that were read.
    """

    path: Path
    table: pd.DataFrame
    digest: str

    def __str__(self) -> str:
        return str(self.path)


def read_membership(path: Path) -> pd.DataFrame:
    """Read a split file's table; see `read_split`."""
    return read_split(path).table


def read_split(path: Path) -> Split:
    """Read a split file.

    Raises:
        SplitError: the file is missing or damaged, or a case is in two splits though files aren't listed.

    Example:
        >>> read_split(Path("data/splits/idc.csv")).table["split"].value_counts()
    """
    types = {"file": str, "case_id": str, "split": str}
    try:
        content = path.read_bytes()
        table = pd.read_csv(io.BytesIO(content), dtype=types, keep_default_na=False)
    except FileNotFoundError:
        raise SplitError(f"{path} is missing: run `dvc repro split@{path.stem}`") from None
    except (ValueError, UnicodeDecodeError) as problem:
        raise SplitError(f"{path} is not a readable table ({problem}): {restore_command(path)}") from None
    if not {"case_id", "split"} <= set(table.columns) or not set(table["split"]) <= set(SPLITS):
        raise SplitError(f"{path} is not a split file (case_id,split): run `dvc repro --force split@{path.stem}`")
    table = _normalised(table, path)
    assert_disjoint(table, path)
    return Split(path, table, hashlib.sha256(content).hexdigest())


def _normalised(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Return the table with case ids in normal form; two spellings of one case in one split become one row."""
    renamed = with_normal_ids(table)
    if renamed is table or "file" in table:
        return renamed
    for _, rows in table.groupby(renamed["case_id"]):
        if rows["split"].nunique() > 1:
            first, second = rows.drop_duplicates("split")["case_id"].iloc[:2]
            raise SplitError(
                f"{path}: {spell_out(first)} and {spell_out(second)} are two spellings of one case and are in two "
                f"splits: run `dvc repro --force split@{path.stem}`"
            )
    return renamed.drop_duplicates("case_id").reset_index(drop=True)


def read_folds(path: Path) -> pd.Series:
    """Read the fold number of each case id.

    Raises:
        SplitError: the file is missing or damaged, or there were fewer cases than folds.
    """
    stage = f"split@{path.name.split('.')[0]}"
    try:
        table = pd.read_csv(path, dtype={"case_id": str}, keep_default_na=False).set_index("case_id")["fold"]
    except FileNotFoundError:
        raise SplitError(f"{path} is missing: run `dvc repro {stage}`") from None
    except (ValueError, KeyError, UnicodeDecodeError):
        raise SplitError(f"{path} is not a table of case_id,fold: run `dvc repro --force {stage}`") from None
    if table.empty:
        raise SplitError(f"{path} is empty, since there are fewer cases than folds: lower split.folds or add cases")
    renamed = table.rename(index=normal_id)
    if (divided := renamed.groupby(level=0).nunique() > 1).any():
        raise SplitError(f"{path}: two spellings of {divided.idxmax()} have two folds: run `dvc repro {stage}`")
    return renamed[~renamed.index.duplicated()]


def assert_disjoint(table: pd.DataFrame, path: Path) -> None:
    """Check that no case (no file, in an image-level split) belongs to two splits.

    Raises:
        SplitError: a case does; the message names it.
    """
    unit = "file" if "file" in table else "case_id"
    splits = table.groupby(unit)["split"].nunique()
    if (splits > 1).any():
        raise SplitError(f"{path}: {unit} {splits.index[splits > 1][0]} is in two splits: restore the file")
    if table[unit].duplicated().any():
        raise SplitError(f"{path}: {unit} {table[unit][table[unit].duplicated()].iloc[0]} is listed twice")


def is_leaky(table: pd.DataFrame) -> bool:
    """Return whether patches of one case are in several splits, so that metrics measure memory."""
    return bool((table.groupby("case_id")["split"].nunique() > 1).any())


def split_of_patches(split: Split | Path, index: pd.DataFrame) -> pd.Series:
    """Return the split of every patch of `index`; missing for a patch that takes no part.

    Args:
        split: the split, or the path of its file.
        index: the index of the store.

    Raises:
        SplitError: the split file can't be read, or names a case or patch that the index doesn't have.

    Example:
        >>> store = PatchStore.open(Path("data/store/idc"))
        >>> splits = split_of_patches(Path("data/splits/idc.csv"), store.index)
        >>> test = store.gather(np.flatnonzero(splits == "test"))
    """
    split = read_split(split) if isinstance(split, Path) else split
    table, path = split.table, split.path
    unit = "file" if "file" in table else "case_id"
    unknown = set(table[unit]) - set(index[unit])
    if unknown:
        raise SplitError(
            f"{path} names {unit} {min(unknown)}, which the store doesn't have: run `dvc repro split@{path.stem}`"
        )
    return index[unit].map(table.set_index(unit)["split"]).rename("split")
