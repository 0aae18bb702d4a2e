"""A data set of the user's own: a table `file,case_id,label[,x,y]` says what each image is."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from histopipe.datasets.layout import Dataset, PatchName
from histopipe.errors import SourceError

REQUIRED = ("file", "case_id", "label")


def manifest_dataset(name: str, manifest: Path, patch_size: tuple[int, int]) -> Dataset:
    """Describe a data set by its manifest; images of other sizes are resized to `patch_size`.

    Raises:
        SourceError: the manifest is missing or not what it should be; the message names the line.
    """
    patches = _patches(read_manifest(manifest))

    def read_name(member: str) -> PatchName | None:
        found = patches.get(member)
        if found is None and "/" in member:  # archives often wrap everything in one folder
            found = patches.get(member.split("/", 1)[1])
        return found

    return Dataset(
        name=name,
        title=name,
        classes=("negative", "positive"),
        patch_size=patch_size,
        read_name=read_name,
        listed=frozenset(patches),
        resized=True,
    )


def read_manifest(path: Path) -> pd.DataFrame:
    """Read and check a manifest; `x` and `y` are added as missing where it has none.

    Raises:
        SourceError: a column is missing, a label isn't 0 or 1, a file is listed twice, a case id is empty.
    """
    try:
        table = pd.read_csv(path, dtype={"file": str, "case_id": str}, keep_default_na=False, encoding="utf-8-sig")
    except FileNotFoundError:
        raise SourceError(f"{path} is missing: check `manifest` in params.yaml") from None
    except (ValueError, UnicodeDecodeError) as problem:
        raise SourceError(f"{path} is not a readable CSV table ({problem})".replace("\n", " ")) from None
    missing = [column for column in REQUIRED if column not in table]
    if missing:
        raise SourceError(f"{path} has no column {', '.join(missing)}: a manifest needs file,case_id,label[,x,y]")
    _check_rows(table, path)
    for column in ("x", "y"):
        if column not in table:
            table[column] = pd.NA
        table[column] = _coordinates(table[column], path)
    return table


def _check_rows(table: pd.DataFrame, path: Path) -> None:
    if table.empty:
        raise SourceError(f"{path} lists no files: add a row per image")
    faults = {
        "label is not 0 or 1": ~table["label"].astype(str).isin(["0", "1"]),
        "case_id is empty": table["case_id"].str.strip() == "",
        "file is listed twice": table["file"].duplicated(),
    }
    for fault, rows in faults.items():
        if rows.any():
            line = int(rows.to_numpy().argmax()) + 2  # line 1 is the header
            raise SourceError(f"{path}, line {line}: {fault} ({table['file'].iloc[line - 2]}): mend the table")


def _coordinates(column: pd.Series, path: Path) -> pd.Series:
    try:
        return pd.to_numeric(column.replace("", pd.NA)).astype("Int32")
    except (ValueError, TypeError):
        raise SourceError(f"{path}: column {column.name} holds something else than whole pixels") from None


def _patches(table: pd.DataFrame) -> dict[str, PatchName]:
    rows = zip(table["file"], table["case_id"], table["label"], table["x"], table["y"], strict=True)
    return {file: PatchName(case, int(label), _known(x), _known(y)) for file, case, label, x, y in rows}


def _known(value: object) -> int | None:
    return None if value is pd.NA else int(value)  # type: ignore[call-overload]
