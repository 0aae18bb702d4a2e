"""The record that goes with every evaluated network: its file stays as it was, and one of before can be read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from histopipe.core.errors import HistopipeError
from histopipe.core.operating_point import OperatingPoint, read_operating_point, write_operating_point

POINT: OperatingPoint = {
    "temperature": 1.5,
    "offset": -0.25,
    "threshold": 0.4,
    "rule": "youden",
    "positive_class": "IDC",
    "negative_class": "benign",
    "data_set": "idc",
    "patch_size": [50, 50],
    "resized": False,
}


def test_the_file_holds_the_keys_in_their_order_and_nothing_else(tmp_path: Path) -> None:
    path = write_operating_point(tmp_path, POINT)
    assert path == tmp_path / "operating_point.json"
    assert list(json.loads(path.read_text()).items()) == list(POINT.items())
    assert read_operating_point(tmp_path) == POINT


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "operating_point.json").write_text("{")
    with pytest.raises(HistopipeError, match=r"operating_point\.json"):
        read_operating_point(tmp_path)
