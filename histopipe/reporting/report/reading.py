"""Readers for the files of the page. Missing files are left out of the page; damaged files are errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from histopipe.core.errors import EvaluationError
from histopipe.core.files import read_case_table, read_record, restore_command

TableRow = dict[str, Any]  # a row of a CSV table, by column


def read_json_if_present(path: Path) -> Any:
    """Read an object from a JSON file; empty if there is no file.

    Raises:
        HistopipeError: the file isn't JSON, or holds no object.
    """
    return read_record(path, "names and values", EvaluationError) if path.is_file() else {}


def read_table_if_present(path: Path, *columns: str) -> pd.DataFrame | None:
    """Read a CSV table; None if there is no file.

    Args:
        path: path of the file.
        columns: columns that it must have.

    Raises:
        EvaluationError: the file isn't a table, or lacks a column.
    """
    if not path.is_file():
        return None
    try:
        table = read_case_table(path)
    except (ValueError, UnicodeDecodeError) as problem:
        raise EvaluationError(f"{path} is not a readable table ({problem}): {restore_command(path)}") from None
    missing = [column for column in columns if column not in table]
    if missing:
        raise EvaluationError(f"{path} has no column {', '.join(missing)}: {restore_command(path)}")
    return table


def rows_of(table: pd.DataFrame) -> list[TableRow]:
    """List the rows of a table; missing values are None."""
    values = table.astype(object).where(table.notna(), None)
    return [{str(name): value for name, value in row.items()} for row in values.to_dict(orient="records")]
