"""What the page reads from disk. What isn't there is left out of the page; what is damaged is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from histopipe.core.errors import EvaluationError
from histopipe.core.files import read_json, read_named, restoring

TableRow = dict[str, Any]  # a row of a CSV table, by column


def known_json(path: Path) -> Any:
    """Content of a JSON file; empty where there is none.

    Raises:
        HistopipeError: it isn't JSON, or no object.
    """
    found = read_json(path) if path.is_file() else {}
    if not isinstance(found, dict):
        raise EvaluationError(f"{path} holds no names and values: {restoring(path)}")
    return found


def known_table(path: Path, *columns: str) -> pd.DataFrame | None:
    """A CSV table; None where there is none.

    Args:
        path: of the file.
        columns: that it must have.

    Raises:
        EvaluationError: it isn't a table, or lacks a column.
    """
    if not path.is_file():
        return None
    try:
        table = read_named(path)
    except (ValueError, UnicodeDecodeError) as problem:
        raise EvaluationError(f"{path} is not a readable table ({problem}): {restoring(path)}") from None
    missing = [column for column in columns if column not in table]
    if missing:
        raise EvaluationError(f"{path} has no column {', '.join(missing)}: {restoring(path)}")
    return table


def records(table: pd.DataFrame) -> list[TableRow]:
    """A table row by row; what is missing is None."""
    known = table.astype(object).where(table.notna(), None)
    return [{str(name): value for name, value in row.items()} for row in known.to_dict(orient="records")]
