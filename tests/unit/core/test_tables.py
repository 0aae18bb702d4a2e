"""Tables hold whatever names they are given."""

from pathlib import Path

import pandas as pd
import pytest

from histopipe.core.files import read_case_table
from histopipe.core.tables import format_csv, markdown_cell, write_csv


@pytest.mark.parametrize("name", ["a,b", 'a"b', "a\rb", "a\r\nb", "a\nb", "a\u2028b", "\r99,1,1", "=1+1", "007", "NA"])
def test_a_csv_table_gives_names_back(tmp_path: Path, name: str) -> None:
    table = pd.DataFrame({"case_id": [name, "P2"], "patches": [1, 2], "share": [0.5, 0.25]})
    write_csv(table, tmp_path / "cases.csv")
    read = read_case_table(tmp_path / "cases.csv")
    pd.testing.assert_frame_equal(read, table, check_dtype=False)


def test_plain_tables_are_written_as_before() -> None:
    table = pd.DataFrame({"case_id": ["P1", "a,b"], "patches": [1, 2]})
    assert format_csv(table) == table.to_csv(index=False)


@pytest.mark.parametrize(
    ("name", "cell"), [("a|b", "a\\|b"), ("a\nb", "a\\x0ab"), ("a\u2028b", "a\\u2028b"), ("a\\|b", "a\\|b"), ("a", "a")]
)
def test_a_name_stays_in_its_cell(name: str, cell: str) -> None:
    assert markdown_cell(name) == cell
