"""Data sets of the user's own: a table and a folder or archive, no code."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from histopipe.core.errors import ArchiveError, HistopipeError, SourceError
from histopipe.core.params import parse_params
from histopipe.core.workspace import Workspace
from histopipe.data.store import PatchStore
from histopipe.ingest.datasets.manifest import read_manifest
from histopipe.ingest.images import decode_patch
from histopipe.ingest.stage import ingest
from tests.builders.archives import write_zip
from tests.builders.images import png


@pytest.fixture
def own(content: dict[str, Any]) -> Any:
    content |= {"datasets": ["mine"], "mine": {"source": "mine.zip", "manifest": "mine.csv"}}
    return content


def write_raw(workspace: Workspace, table: str, members: dict[str, bytes]) -> None:
    write_zip(workspace.raw("mine") / "mine.zip", members)
    (workspace.raw("mine") / "manifest.csv").write_text(table)


def test_labels_cases_and_places_come_from_the_table(workspace: Workspace, own: dict[str, Any]) -> None:
    names = [f"scans/{number}.png" for number in range(4)]
    table = "file,case_id,label,x,y\n" + "".join(
        f"{name},P{i // 2},{i % 2},{i * 10},7\n" for i, name in enumerate(names)
    )
    write_raw(workspace, table, {name: png(64, 80, seed=i) for i, name in enumerate(names)})
    report = ingest("mine", parse_params(own), workspace)
    index = PatchStore.open(workspace.store("mine")).index
    assert report["patch_size"] == [64, 80]
    assert index["case_id"].tolist() == ["P0", "P0", "P1", "P1"]
    assert index["label"].tolist() == [0, 1, 0, 1]
    assert index["x"].tolist() == [0, 10, 20, 30]


def test_images_of_other_sizes_are_resized_to_the_declared_one(workspace: Workspace, own: dict[str, Any]) -> None:
    own["mine"]["patch_size"] = [32, 48]
    write_raw(workspace, "file,case_id,label\na.png,1,0\nb.png,2,1\n", {"a.png": png(64, 96), "b.png": png(20, 20)})
    ingest("mine", parse_params(own), workspace)
    store = PatchStore.open(workspace.store("mine"))
    assert store.patch_size == (32, 48)
    means = decode_patch(png(64, 96)).reshape(32, 2, 48, 2, 3).mean(axis=(1, 3))
    assert np.abs(store.gather(np.array([0]))[0] - means).max() <= 1  # rounded once along each axis
    assert store.index["width"].tolist() == [96, 20]
    assert store.index["x"].isna().all()


def test_one_wrapping_folder_is_seen_through(workspace: Workspace, own: dict[str, Any]) -> None:
    write_raw(workspace, "file,case_id,label\na.png,1,0\nb.png,2,1\n", {"top/a.png": png(), "top/b.png": png()})
    assert ingest("mine", parse_params(own), workspace)["patches"] == 2


def test_a_wrapping_folder_is_seen_through_beside_what_macos_adds(workspace: Workspace, own: dict[str, Any]) -> None:
    members = {"top/a.png": png(), "__MACOSX/top/._a.png": b"\0", "top/b.png": png()}
    write_raw(workspace, "file,case_id,label\na.png,1,0\nb.png,2,1\n", members)
    report = ingest("mine", parse_params(own), workspace)
    assert (report["patches"], report["bad"]) == (2, 0)


def test_one_row_never_takes_several_members(workspace: Workspace, own: dict[str, Any]) -> None:
    members = {name: png(seed=seed) for seed, name in enumerate(["thumbs/a.png", "a.png", "scans/a.png", "b.png"])}
    write_raw(workspace, "file,case_id,label\na.png,1,0\nb.png,2,1\n", members)
    ingest("mine", parse_params(own), workspace)
    assert PatchStore.open(workspace.store("mine")).index["file"].tolist() == ["a.png", "b.png"]


def test_a_row_without_a_folder_is_missing_where_several_folders_might_be_meant(
    workspace: Workspace, own: dict[str, Any]
) -> None:
    members = {"thumbs/a.png": png(), "scans/a.png": png(), "scans/b.png": png()}
    write_raw(workspace, "file,case_id,label\na.png,1,0\nscans/b.png,2,1\n", members)
    with pytest.raises(ArchiveError, match=r"1 of 2 .*not in the archive; for example 'a\.png'"):
        ingest("mine", parse_params(own), workspace)


def test_a_folder_of_the_same_name_inside_the_wrapper_is_kept(workspace: Workspace, own: dict[str, Any]) -> None:
    members = {"top/top/a.png": png(), "top/a.png": png(seed=1)}
    write_raw(workspace, "file,case_id,label\ntop/a.png,1,0\n", members)
    ingest("mine", parse_params(own), workspace)
    assert PatchStore.open(workspace.store("mine")).index["file"].tolist() == ["top/a.png"]


def test_spaces_around_values_and_blank_lines_mean_nothing(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(" file, case_id ,label,x,y\n\n a.png , P1,1 ,7.0,\n,,,,\n  \nb.png,P1,0\n", encoding="utf-8-sig")
    table = read_manifest(path)
    assert table["file"].tolist() == ["a.png", "b.png"]
    assert table["case_id"].tolist() == ["P1", "P1"]
    assert table["label"].tolist() == [1, 0]
    assert table["x"].tolist() == [7, pd.NA]
    assert table["y"].isna().all()


def test_a_listed_file_that_is_missing_counts_as_bad(workspace: Workspace, own: dict[str, Any]) -> None:
    write_raw(workspace, "file,case_id,label\na.png,1,0\nb.png,2,1\n", {"a.png": png(), "notes.txt": b"x"})
    with pytest.raises(ArchiveError, match=r"1 x listed in the manifest but not in the archive; for example 'b\.png'"):
        ingest("mine", parse_params(own), workspace)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file,label\na.png,1\n", "no column case_id"),
        ("file,case_id,label\n", "lists no files"),
        ("file,case_id,label\na.png,1,2\n", "line 2: label is not 0 or 1"),
        ("file,case_id,label\na.png,1,1\na.png,1,0\n", "line 3: file is listed twice"),
        ("file,case_id,label\na.png,,1\n", "line 2: case_id is empty"),
        ("file,case_id,label\na.png, ,1\n", "line 2: case_id is empty"),
        ("file,case_id,label\na.png,1,1\n ,1,1\n", "line 3: file is empty"),
        ("file,case_id,label\na.png,1,1.0\n", "line 2: label is not 0 or 1"),
        ("file,case_id,label\na.png,1\n", "line 2: label is not 0 or 1"),
        ("file,case_id,label\na.png,1,1\n a.png,1,0\n", "line 3: file is listed twice"),
        ("file,case_id,label\n\n\na.png,1,1\n\nb.png,1,2\n", "line 6: label is not 0 or 1"),
        ('file,case_id,label,note\na.png,1,2,"x\ny"\n', "line 2: label is not 0 or 1"),
        ('file,case_id,label,note\na.png,1,1,"x\ny"\nb.png,1,2,\n', "line 4: label is not 0 or 1"),
        ('file,case_id,label\n"a\nb.png",1,1\n', r"line 2: file holds a line break .*\('a\\nb\.png'\)"),
        ('file,case_id,label\na.png,1,1\nb.png,"P\n1",1\n', r"line 3: case_id holds a line break .*'b\.png'"),
        ("file,case_id,label\na.png,P\x1b[31m1,1\n", "line 2: case_id holds a line break or another control"),
        ("file,case_id,label\na.png,P\x851,1\n", "line 2: case_id holds"),
        ("file,case_id,label\na.png,P\u20281,1\n", "line 2: case_id holds"),
        ("file,case_id,label\na.png,1,1\nb,1.png,1,0\n", "line 3: 4 fields, but the header names 3"),
        ("file,case_id,label,case_id\na.png,1,1,2\n", "2 columns named case_id"),
        ("file,case_id,label,x,y\na.png,1,1,left,0\n", "column x is not"),
        ("file,case_id,label,x,y\na.png,1,1,0,0\nb.png,1,1,0,inf\n", "line 3: column y is not"),
        ("file,case_id,label,x,y\na.png,1,1,99999999999999999999,0\n", "line 2: column x is not"),
        ("file,case_id,label,x,y\na.png,1,1,1.5,0\n", "line 2: column x is not"),
        ("file,case_id,label,x,y\na.png,1,1,nan,0\n", "line 2: column x is not"),
        ('file,case_id,label\n"a.png,1,1\n', "not a readable CSV"),
        ("", "not a readable CSV"),
    ],
)
def test_a_faulty_table_is_refused_by_line(tmp_path: Path, table: str, message: str) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(table)
    with pytest.raises(SourceError, match=message) as caught:
        read_manifest(path)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, HistopipeError)
