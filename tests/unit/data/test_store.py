"""The store: patches come back as they were packed, in the order asked for, and damage is named in one line."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from histopipe.core.cases.readings import READINGS, Reading
from histopipe.core.errors import HistopipeError, StoreError
from histopipe.data.store import (
    INDEX_FILE,
    REPORT_FILE,
    SHARD_BYTES,
    PatchStore,
    read_index,
    read_store_record,
    require_reading,
    shard_length,
    shard_name,
)
from tests.builders.stores import write_shards


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store of nine patches in three shards."""
    write_shards(tmp_path / "idc", 4, 3, 2)
    return tmp_path / "idc"


def change_index(folder: Path, **columns: Any) -> None:
    """Give columns of a store's index other values."""
    path = folder / INDEX_FILE
    pd.read_parquet(path).assign(**columns).to_parquet(path, index=False)


def test_names_of_shards_sort_in_their_order() -> None:
    names = [shard_name(number) for number in range(1200)]
    assert names[3] == "patches-00003.npy"
    assert sorted(names) == names


def test_a_shard_holds_what_fits_its_size_and_a_patch_at_least() -> None:
    assert shard_length((50, 50)) == 4473
    assert shard_length((50, 50)) * 50 * 50 * 3 <= SHARD_BYTES < (shard_length((50, 50)) + 1) * 50 * 50 * 3
    assert shard_length((5000, 5000)) == 1


def test_opening_maps_shards_without_reading_them(folder: Path) -> None:
    store = PatchStore.open(folder)
    assert [len(shard) for shard in store.shards] == [4, 3, 2]
    assert all(isinstance(shard, np.memmap) and not shard.flags.writeable for shard in store.shards)


def test_the_index_has_one_row_for_each_patch(folder: Path) -> None:
    store = PatchStore.open(folder)
    assert store.folder == folder
    assert store.index["file"].tolist() == [f"{row}.png" for row in range(9)]


def test_the_patch_size_is_height_then_width(folder: Path) -> None:
    assert PatchStore.open(folder).patch_size == (4, 5)


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(range(9), id="all"),
        pytest.param(range(8, -1, -1), id="backwards"),
        pytest.param([7, 0, 5, 1, 8], id="mixed over shards"),
        pytest.param([6, 6, 2, 6], id="repeated"),
        pytest.param([4], id="one"),
        pytest.param([], id="none"),
    ],
)
def test_patches_are_gathered_in_the_order_asked_for(tmp_path: Path, rows: list[int]) -> None:
    patches = write_shards(tmp_path, 4, 3, 2)
    positions = np.array(rows, np.int64)
    batch = PatchStore.open(tmp_path).gather(positions)
    assert batch.dtype == np.uint8 and batch.shape == (len(positions), 4, 5, 3)
    np.testing.assert_array_equal(batch, patches[positions])


def test_rows_are_positions_in_the_index_whatever_its_order(folder: Path) -> None:
    """An index may be sorted by case, while the shards stay in the archive's order."""
    patches = PatchStore.open(folder).gather(np.arange(9))
    order = np.random.default_rng(1).permutation(9)
    pd.read_parquet(folder / INDEX_FILE).iloc[order].to_parquet(folder / INDEX_FILE, index=False)
    store = PatchStore.open(folder)
    np.testing.assert_array_equal(store.gather(np.arange(9)), patches[order])
    assert store.index["file"].tolist() == [f"{row}.png" for row in order]


def test_what_is_done_to_a_batch_leaves_the_store_as_it_is(folder: Path) -> None:
    store = PatchStore.open(folder)
    before = store.gather(np.arange(9))
    store.gather(np.arange(9))[:] = 0
    np.testing.assert_array_equal(store.gather(np.arange(9)), before)
    assert before.any()


def test_a_store_without_patches_has_no_shards(tmp_path: Path) -> None:
    pd.DataFrame({"file": [], "shard": [], "row": []}).to_parquet(tmp_path / INDEX_FILE, index=False)
    store = PatchStore.open(tmp_path)
    assert (len(store.index), len(store.shards)) == (0, 0)


def overwritten(name: str, content: bytes) -> Callable[[Path], object]:
    """Return a function that gives a file of a store other content."""
    return lambda folder: (folder / name).write_bytes(content)


def lost(name: str) -> Callable[[Path], object]:
    """Return a function that deletes a file of a store."""
    return lambda folder: (folder / name).unlink()


def replaced(shape: tuple[int, ...], kind: type = np.uint8) -> Callable[[Path], object]:
    """Return a function that gives the second shard another shape or type."""
    return lambda folder: np.save(folder / SECOND, np.zeros(shape, kind))


def cut_short(folder: Path) -> None:
    """Take the end of the second shard off."""
    (folder / SECOND).write_bytes((folder / SECOND).read_bytes()[:-10])


def unlisted(folder: Path) -> None:
    """Let no row of the index name the second shard."""
    change_index(folder, shard=[0] * 4 + [2] * 5)


SECOND = shard_name(1)
RESTORE = r"run `dvc checkout --force .*/idc`, or `histopipe doctor --mend`"
UNREADABLE = rf"idc/patches-00001\.npy can't be read \(.*\): {RESTORE}"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(lost(INDEX_FILE), r"idc/index\.parquet is missing: run `dvc repro ingest@idc`", id="no index"),
        pytest.param(overwritten(INDEX_FILE, b""), rf"index\.parquet can't be read .*: {RESTORE}", id="empty index"),
        pytest.param(overwritten(INDEX_FILE, b"x" * 99), rf"index\.parquet can't be read .*: {RESTORE}", id="no table"),
        pytest.param(lost(SECOND), rf"idc/patches-00001\.npy is missing: {RESTORE}", id="no shard"),
        pytest.param(overwritten(SECOND, b""), UNREADABLE, id="empty shard"),
        pytest.param(overwritten(SECOND, b"text"), UNREADABLE, id="no array"),
        pytest.param(cut_short, UNREADABLE, id="cut shard"),
        pytest.param(replaced((3, 4, 5, 3), np.float32), rf"float32 \(3, 4, 5, 3\), not RGB.*{RESTORE}", id="floats"),
        pytest.param(replaced((3, 4, 5, 4)), rf"uint8 \(3, 4, 5, 4\), not RGB patches: {RESTORE}", id="four channels"),
        pytest.param(replaced((3, 4, 5)), rf"uint8 \(3, 4, 5\), not RGB patches: {RESTORE}", id="grey"),
        pytest.param(replaced((2, 4, 5, 3)), "holds 2 patches but the index lists 3: run `histopipe", id="short shard"),
        pytest.param(replaced((5, 4, 5, 3)), "holds 5 patches but the index lists 3: run `histopipe", id="long shard"),
        pytest.param(unlisted, "holds 3 patches but the index lists 0: run `histopipe", id="unlisted shard"),
    ],
)
def test_damage_is_named_in_one_line_with_its_remedy(
    folder: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(folder)
    with pytest.raises(StoreError, match=message) as problem:
        PatchStore.open(folder)
    assert str(folder) in str(problem.value) and "\n" not in str(problem.value)


def test_only_the_columns_asked_for_are_read(folder: Path) -> None:
    assert list(read_index(folder, ("label", "case_id")).columns) == ["label", "case_id"]
    assert list(read_index(folder, ("file",)).columns) == ["file"]


def test_case_ids_of_an_earlier_version_are_read_in_normal_form(folder: Path) -> None:
    spelt = unicodedata.normalize("NFD", "Müller")
    change_index(folder, case_id=[spelt, "P1\u00a0A", "P1"] * 3)
    assert spelt != "Müller"
    for index in (read_index(folder), read_index(folder, ("case_id",)), PatchStore.open(folder).index):
        assert index["case_id"].tolist() == ["Müller", "P1 A", "P1"] * 3


def test_the_record_is_what_ingest_wrote(folder: Path) -> None:
    (folder / REPORT_FILE).write_text('{"patches": 9, "classes": ["benign", "IDC"]}')
    assert read_store_record(folder) == {"patches": 9, "classes": ["benign", "IDC"]}


@pytest.mark.parametrize(("content", "message"), [(None, "is missing"), ("{", "is not valid JSON")])
def test_a_record_that_cannot_be_read_is_named(folder: Path, content: str | None, message: str) -> None:
    if content is not None:
        (folder / REPORT_FILE).write_text(content)
    with pytest.raises(HistopipeError, match=rf"idc/report\.json {message}") as problem:
        read_store_record(folder)
    assert "\n" not in str(problem.value)


@pytest.fixture
def breakhis(tmp_path: Path) -> Path:
    """A store of BreakHis without a report, as of a version before case ids could be read in two ways."""
    write_shards(tmp_path / "breakhis", 3)
    return tmp_path / "breakhis"


def test_a_data_set_without_a_choice_of_readings_needs_none(folder: Path) -> None:
    require_reading(folder, None)


@pytest.mark.parametrize("reading", READINGS["breakhis"])
def test_the_recorded_reading_is_the_only_one_that_passes(breakhis: Path, reading: Reading) -> None:
    (breakhis / REPORT_FILE).write_text(json.dumps({"case_reading": reading}))
    require_reading(breakhis, reading)
    for other in set(READINGS["breakhis"]) - {reading}:
        with pytest.raises(StoreError, match=f"`case: {reading}`, but breakhis.case in params.yaml is {other}"):
            require_reading(breakhis, other)


def test_ids_without_letters_are_the_same_under_both_readings(breakhis: Path) -> None:
    change_index(breakhis, case_id=["14-22549", "14-22549", "14-4659"])
    require_reading(breakhis, "accession")
    require_reading(breakhis, "publisher")


def test_ids_with_letters_are_the_publishers_where_nothing_is_recorded(breakhis: Path) -> None:
    change_index(breakhis, case_id=["14-22549AB", "14-22549CD", "14-4659"])
    require_reading(breakhis, "publisher")
    with pytest.raises(StoreError, match="ingested with `case: publisher`"):
        require_reading(breakhis, "accession")
