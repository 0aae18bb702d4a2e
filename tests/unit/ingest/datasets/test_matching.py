"""Names in a manifest that the archive spells otherwise: matched where only one file can be meant, else named."""

from __future__ import annotations

import time
import unicodedata
from typing import Any

import pytest

from histopipe.core.errors import ArchiveError, SourceError
from histopipe.core.params import parse_params
from histopipe.core.workspace import Workspace
from histopipe.data.store import PatchStore
from histopipe.ingest.datasets.matching import match_files
from histopipe.ingest.stage import ingest
from tests.builders.archives import write_zip
from tests.builders.images import png

FILES = ("scans/a/Ren\u00e9_1.png", "scans/a/2.PNG", "scans/b/1.png", "scans/b/2.tif")


def packed(
    workspace: Workspace, content: dict[str, Any], rows: list[str], members: list[str], **limits: Any
) -> dict[str, Any]:
    content |= {"datasets": ["mine"], "mine": {"source": "mine.zip", "manifest": "mine.csv"}}
    content["ingest"] |= limits
    write_zip(workspace.raw("mine") / "mine.zip", {name: png(20, 20, seed=seed) for seed, name in enumerate(members)})
    lines = "".join(f'"{name}",P{number},{number % 2}\n' for number, name in enumerate(rows))
    (workspace.raw("mine") / "manifest.csv").write_text("file,case_id,label\n" + lines, encoding="utf-8")
    return ingest("mine", parse_params(content), workspace)


@pytest.mark.parametrize(
    "respell",
    [
        lambda name: f"./{name}",
        lambda name: name.replace("/", "\\"),
        lambda name: f".\\{name}".replace("/", "\\"),
        lambda name: name.replace("/", "//"),
        lambda name: unicodedata.normalize("NFD", name),
        lambda name: name.replace(".PNG", ".png").replace(".tif", ".TIF"),
        lambda name: f"/home/ann/work/{name}",
        lambda name: f"C:\\Users\\Ann\\{name}".replace("/", "\\"),
        lambda name: f"//server/share/{name}",
        lambda name: f"../data/{name}",
        lambda name: f"project/images/{name}",
        lambda name: name.removeprefix("scans/"),
        lambda name: f"/mnt/data/slides/{name.removeprefix('scans/')}",
    ],
    ids=range(13),
)
def test_names_that_are_only_spelt_otherwise_are_matched(
    workspace: Workspace, content: dict[str, Any], respell: Any
) -> None:
    report = packed(workspace, content, list(map(respell, FILES)), list(FILES))
    assert (report["patches"], report["cases"], report["bad"]) == (4, 4, 0)
    index = PatchStore.open(workspace.store("mine")).index
    assert index["file"].tolist() == list(FILES)  # as the archive has it
    assert index["case_id"].tolist() == ["P0", "P1", "P2", "P3"]
    told = report["manifest"]
    assert told["listed"] == told["matched_as_listed"] + told["matched_otherwise"] == 4
    assert told["matched_otherwise"] >= 1 and [respell(FILES[0]), FILES[0]] in [*told["examples"], [FILES[0]] * 2]


def test_the_archive_may_be_the_one_that_is_wrapped_twice() -> None:
    found = match_files({"a.png", "x/b.png"}, ["top/inner/a.png", "top/inner/x/b.png"])
    assert found.rows == {"top/inner/a.png": "a.png", "top/inner/x/b.png": "x/b.png"}


def test_a_path_of_another_machine_finds_what_lies_in_another_wrapper() -> None:
    rows, names = {"/home/ann/images/a.png", "/home/ann/images/b.png"}, ["export/a.png", "export/b.png"]
    assert list(match_files(rows, names).rows) == names


def test_a_row_that_is_written_as_it_stands_is_taken_so() -> None:
    names = ["a.png", "a.PNG", "./a.png", "top/a.png"]
    assert match_files({"a.png", "a.PNG"}, names).rows == {"a.png": "a.png", "a.PNG": "a.PNG"}


@pytest.mark.parametrize(
    ("rows", "names", "complaint"),
    [
        (["a.Png"], ["a.png", "a.PNG"], "'a.Png', which may be 'a.png' or 'a.PNG' in the archive: write one of them"),
        (["a.PNG", "./a.png"], ["a.png"], "names './a.png' and 'a.PNG', which are one file: keep one of the two rows"),
        (["a.png", "./a.png"], ["a.png"], "names 'a.png' and './a.png', which are one file: keep one of the two"),
        (["e\u0301.png"], ["\u00e9.png", "./e\u0301.png"], "which may be"),
    ],
)
def test_what_may_be_two_files_is_refused_by_name(rows: list[str], names: list[str], complaint: str) -> None:
    with pytest.raises(SourceError) as caught:
        match_files(set(rows), names, "mine.csv")
    assert str(caught.value).startswith("mine.csv names ") and complaint in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        (["a/1.png", "b/1.png"], ["c/1.png", "d/1.png"]),
        (["siteA/1.png", "siteA/2.png"], ["siteB/1.png", "siteB/2.png"]),  # numbered alike
        (["/x/siteA/1.png", "/x/siteA/2.png"], ["siteB/1.png", "siteB/2.png", "siteB/3.png"]),
        (["scans/b.png", "old/scans/c.png"], ["scans/b.png", "scans/c.png"]),
        (["a.jpg"], ["a.png"]),
        (["A/1.png"], ["a/1.png", "b/1.png"]),
    ],
)
def test_strangers_are_not_matched(rows: list[str], names: list[str]) -> None:
    assert all(name == row for name, row in match_files(set(rows), names).rows.items())


@pytest.mark.parametrize(
    ("rows", "members", "wanted", "there"),
    [
        (["a/1.jpg", "a/2.jpg"], ["a/1.png", "a/2.png"], "a/1.jpg", "a/1.png"),
        (["a/1.png", "b/2.png"], ["c/7.png", "d/2.PNG", "e/x.txt"], "a/1.png", "c/7.png"),
        (["a.png", "b.png"], ["a.png", "c.txt", "x/B.png"], "b.png", "x/B.png"),
    ],
)
def test_what_is_missing_is_told_with_both_sides_before_anything_is_decoded(
    workspace: Workspace,
    content: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    rows: list[str],
    members: list[str],
    wanted: str,
    there: str,
) -> None:
    monkeypatch.setattr("histopipe.ingest.stage.pack", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ArchiveError) as caught:
        packed(workspace, content, rows, members)
    message = str(caught.value)
    assert f"not in the archive; for example {wanted!r}, where the archive has {there!r})" in message
    assert f"correct the column file of {workspace.raw('mine') / 'manifest.csv'}, " in message and "\n" not in message


def test_a_second_copy_under_another_folder_is_left_out(workspace: Workspace, content: dict[str, Any]) -> None:
    report = packed(workspace, content, ["/x/top/a.png", "/x/top/b.png"], ["top/a.png", "top/b.png", "thumbs/a.png"])
    assert report["patches"] == 2 and report["manifest"]["matched_otherwise"] == 2
    assert PatchStore.open(workspace.store("mine")).index["file"].tolist() == ["top/a.png", "top/b.png"]


def test_left_overs_of_an_operating_system_that_are_listed_change_nothing(
    workspace: Workspace, content: dict[str, Any]
) -> None:
    rows = ["/x/scans/a.png", "/x/scans/._a.png", "/x/scans/b.png", "/x/scans/.DS_Store"]
    report = packed(workspace, content, rows, ["scans/a.png", "scans/b.png", "scans/._a.png"])
    assert (report["patches"], report["bad"], report["manifest"]["listed"]) == (2, 0, 2)


@pytest.mark.slow
def test_names_in_very_many_folders_are_told_apart_soon() -> None:
    deep = "a/" * 100
    listed, names = {f"/{deep}{n}.png" for n in range(1000)}, [f"{deep}b/{n}.tif" for n in range(1000)]
    started = time.process_time()
    assert not match_files(listed, names).rows
    assert time.process_time() - started < 5
