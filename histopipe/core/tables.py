"""Tables as CSV and Markdown, whatever characters their texts contain."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from histopipe.core.files import write_text
from histopipe.core.names import escape_control_characters, has_control_characters

if TYPE_CHECKING:
    import pandas as pd


def format_csv(table: pd.DataFrame) -> str:
    """Return a table as CSV, one line per row, without its index.

    Python's csv module leaves a carriage return unquoted, which readers take for the end of a row. If any text has a
    control character, all texts are quoted.
    """
    texts = (value for name in table.columns for value in table[name] if isinstance(value, str))
    quoted = any(has_control_characters(text) for text in texts)
    quoting: Literal[0, 2] = csv.QUOTE_NONNUMERIC if quoted else csv.QUOTE_MINIMAL
    return str(table.to_csv(index=False, lineterminator="\n", quoting=quoting))


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV."""
    write_text(path, format_csv(table))


def markdown_cell(text: str) -> str:
    r"""Return a text as one cell of a Markdown table; bars and line breaks are escaped.

    Example:
        >>> markdown_cell("a|b")
        'a\\|b'
    """
    return _BAR.sub(r"\|", escape_control_characters(text))


_BAR = re.compile(r"(?<!\\)\|")
