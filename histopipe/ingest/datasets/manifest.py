"""Data sets that a manifest describes: a CSV table `file,case_id,label[,x,y]` with one row per image."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

import pandas as pd

from histopipe.core.cases.ids import has_lost_digits, normal_ids
from histopipe.core.cases.readings import LISTED_CLASSES
from histopipe.core.errors import SourceError
from histopipe.core.names import CONTROL
from histopipe.ingest.datasets.layout import Dataset, PatchName

REQUIRED = ("file", "case_id", "label")
COORDINATES = ("x", "y")

_WHOLE_PIXELS = r"(-?[0-9]{1,9}(\.0*)?)?"  # may be empty; nine digits fit the index's 32-bit integers


def load_manifest_dataset(name: str, manifest: Path, patch_size: tuple[int, int]) -> Dataset:
    """Define a data set by its manifest; images of other sizes are resized to `patch_size`.

    Raises:
        SourceError: the manifest is missing or invalid; the message names the line.

    Example:
        >>> dataset = load_manifest_dataset("mine", Path("images.csv"), patch_size=(64, 64))
        >>> dataset.read_name("a/1.png")
        PatchName(case_id='P1', label=0, x=None, y=None, attributes=())
    """
    patches = _make_patch_names(read_manifest(manifest))
    return Dataset(
        name=name,
        title=name,
        classes=LISTED_CLASSES,
        patch_size=patch_size,
        read_name=patches.get,
        listed=frozenset(patches),
        manifest=str(manifest),
        resized=True,
    )


def read_manifest(path: Path) -> pd.DataFrame:
    """Read and check a manifest.

    Case ids are normalised, so that ` P1` and `P1` don't become two cases.

    Returns:
        Columns file, case_id, label, x and y (missing values if the manifest has no positions), by line number.

    Raises:
        SourceError: a column is missing or occurs twice, a row has too many fields, a label isn't 0 or 1, a file or
            case id is empty or contains a control character, a case id has lost its last digits, a file is listed
            twice, or a coordinate isn't a whole number.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            table = _read_table(stream, path)
    except FileNotFoundError:
        raise SourceError(f"{path} is missing: check `manifest` in params.yaml") from None
    except (ValueError, csv.Error) as problem:
        raise SourceError(f"{path} is not a readable CSV table ({' '.join(str(problem).split())})") from None
    _check_rows(table, path)
    pixels = {column: pd.to_numeric(table[column].mask(table[column] == "")).astype("Int32") for column in COORDINATES}
    return table.assign(label=table["label"].astype("int8"), **pixels)


def _read_table(stream: TextIO, path: Path) -> pd.DataFrame:
    rows = _read_filled_rows(stream)
    _, header = next(rows, (1, []))
    columns = [column.strip() for column in header]
    _check_columns(columns, path)
    positions = {name: columns.index(name) for name in (*REQUIRED, *COORDINATES) if name in columns}
    lines, values = [], []
    for line, row in rows:
        if len(row) > len(columns):
            counts = f"{len(row)} fields, but the header names {len(columns)} columns"
            raise SourceError(f"{path}, line {line}: {counts}: put values that contain a comma in quotes")
        lines.append(line)
        values.append([row[index].strip() if index < len(row) else "" for index in positions.values()])
    table = pd.DataFrame(values, index=lines, columns=list(positions), dtype=str)
    table["case_id"] = normal_ids(table["case_id"].tolist())
    return table.reindex(columns=[*REQUIRED, *COORDINATES], fill_value="")


def _read_filled_rows(stream: TextIO) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that aren't blank, each with the line that it starts on."""
    reader = csv.reader(stream, strict=True)
    line = 1
    for row in reader:
        if any(field.strip() for field in row):
            yield line, row
        line = reader.line_num + 1


def _check_columns(columns: Sequence[str], path: Path) -> None:
    if not columns:
        raise SourceError(f"{path} is not a readable CSV table (it is empty)")
    missing = [column for column in REQUIRED if column not in columns]
    if missing:
        raise SourceError(f"{path} has no column {', '.join(missing)}: a manifest needs file,case_id,label[,x,y]")
    for column in (*REQUIRED, *COORDINATES):
        if columns.count(column) > 1:
            raise SourceError(f"{path} has {columns.count(column)} columns named {column}: keep one of them")


def _check_rows(table: pd.DataFrame, path: Path) -> None:
    if table.empty:
        raise SourceError(f"{path} lists no files: add a row per image")
    faults = {
        "file is empty": table["file"] == "",
        "case_id is empty": table["case_id"] == "",
        "file holds a line break or another control character": table["file"].str.contains(CONTROL),
        "case_id holds a line break or another control character": table["case_id"].str.contains(CONTROL),
        "case_id is a number that a spreadsheet has cut short; export the column as text": _find_lost_digits(
            table["case_id"]
        ),
        "label is not 0 or 1": ~table["label"].isin(["0", "1"]),
        "file is listed twice": table["file"].duplicated(),
        "column x is not a whole number of pixels": ~table["x"].str.fullmatch(_WHOLE_PIXELS),
        "column y is not a whole number of pixels": ~table["y"].str.fullmatch(_WHOLE_PIXELS),
    }
    for fault, rows in faults.items():
        if rows.any():
            line = rows.idxmax()
            raise SourceError(f"{path}, line {line}: {fault} ({table.at[line, 'file']!r}): correct the table")


def _find_lost_digits(cases: pd.Series) -> pd.Series:
    return cases.map({case: has_lost_digits(case) for case in cases.unique()}).astype(bool)


def _make_patch_names(table: pd.DataFrame) -> dict[str, PatchName]:
    rows = zip(table["file"], table["case_id"], table["label"], table["x"], table["y"], strict=True)
    return {file: PatchName(case, int(label), _to_int(x), _to_int(y)) for file, case, label, x, y in rows}


def _to_int(value: object) -> int | None:
    return None if value is pd.NA else int(value)  # type: ignore[call-overload]
