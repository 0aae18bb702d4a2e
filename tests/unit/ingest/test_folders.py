"""Folders on this machine: links are followed, what operating systems leave behind is passed over, nothing is lost."""

import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

from histopipe.core.errors import ArchiveError, HistopipeError, PredictionError
from histopipe.core.params import Params, parse_params
from histopipe.core.workspace import Workspace
from histopipe.inference.inputs import find_images, find_slides
from histopipe.ingest.archives.limits import MemberLimit
from histopipe.ingest.folders import list_files
from histopipe.ingest.sources.stage import fetch, locate
from histopipe.ingest.stage import ingest
from tests.builders.archives import idc_members, write_zip


def written(folder: Path, members: dict[str, bytes]) -> Path:
    for name, data in members.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def graded(path: Path, limit: MemberLimit | None = None) -> tuple[list[str], dict[str, str]]:
    """What `predict` finds, and what it sets aside."""
    rejected: dict[str, str] = {}
    more = [limit] if limit else []
    found = [one.file for one in find_images([path], lambda reason, file: rejected.update({file: reason}), *more)]
    return found, rejected


def test_links_are_followed_and_those_to_nowhere_counted(tmp_path: Path) -> None:
    away = written(tmp_path / "away", {"1.png": b"1", "deep/2.png": b"2"})
    folder = written(tmp_path / "in", {"a/3.png": b"3"})
    (folder / "b").symlink_to(away)
    (folder / "a/4.png").symlink_to(away / "1.png")
    (folder / "a/up").symlink_to("..")
    (folder / "out").symlink_to(tmp_path)
    (folder / "a/gone.png").symlink_to("nowhere.png")
    (folder / "a/self.png").symlink_to("self.png")
    os.mkfifo(folder / "pipe.png")
    assert graded(folder) == (
        ["a/3.png", "a/4.png", "b/1.png", "b/deep/2.png"],
        {
            "a/gone.png": "broken link",
            "a/self.png": "broken link",
            "a/up": "link to a folder that contains it",
            "out": "link to a folder that contains it",
            "pipe.png": "not a file",
        },
    )


@pytest.mark.timeout(60)
def test_folders_that_multiply_by_links_are_refused(tmp_path: Path) -> None:
    for level in range(30):
        (tmp_path / "in" / f"{level}").mkdir(parents=True)
        for side in "lr":
            (tmp_path / "in" / f"{level}" / side).symlink_to(f"../{level + 1}")
    written(tmp_path / "in/30", {"a.png": b"x"})
    with pytest.raises(ArchiveError, match="more than 1,000 files, folders and links"):
        list_files(tmp_path / "in", MemberLimit(1000))


LEFT_BEHIND = ["._a.png", "c/._a.png", ".DS_Store", "Icon\r", "@eaDir/a.png", ".Trashes/a.png", "c/Thumbs.db"]


def test_predict_passes_over_what_operating_systems_leave_behind(tmp_path: Path) -> None:
    members = {"c/a.png": b"1", **dict.fromkeys([*LEFT_BEHIND, "__MACOSX/c/._a.png", "._b.svs"], b"\0")}
    folder = written(tmp_path / "in", members)
    assert graded(folder) == (["c/a.png"], {})
    assert find_slides([folder]) == []
    assert graded(write_zip(tmp_path / "a.zip", members)) == (["c/a.png"], {})


def test_predict_sets_names_with_line_breaks_aside(tmp_path: Path) -> None:
    members = {"c/a.png": b"1", "c\rd/a.png": b"1", "c/b\n.png": b"1", "c/\u202egnp.svs": b"1", "c\r/notes.txt": b"1"}
    folder = written(tmp_path / "in", members)
    reason = "name holds a line break or another control character"
    expected = {"c\\x0dd/a.png": reason, "c/b\\x0a.png": reason}
    found, rejected = graded(folder)
    assert (found, rejected) == (["c/a.png"], expected | {"c/\\u202egnp.svs": reason})
    assert find_slides([folder]) == []
    found, rejected = graded(write_zip(tmp_path / "a.zip", members))
    assert (found, {name: rejected[name] for name in expected}) == (["c/a.png"], expected)
    for odd in (written(tmp_path / "in\r2", {"a.png": b"1"}), tmp_path / "in\r2/a.png"):
        with pytest.raises(PredictionError, match="line break or another control character: rename it"):
            find_slides([odd])


def test_predict_reads_folders_that_windows_wrote(tmp_path: Path) -> None:
    folder = written(tmp_path / "in", {"case 1\\a.png": b"1"})
    (image,) = find_images([folder], lambda *_: None)
    assert (image.file, image.case_id) == ("case 1/a.png", "case 1")


def test_predict_bounds_the_members_of_an_archive(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {f"{number}.png": b"" for number in range(10)})
    assert len(graded(path, MemberLimit(10))[0]) == 10
    with pytest.raises(ArchiveError, match="more than 9 files, folders and links: send fewer"):
        graded(path, MemberLimit(9, "send fewer"))


@pytest.fixture
def of_folder(workspace: Workspace, content: dict[str, Any]) -> Params:
    content["idc"]["source"] = str(workspace.root / "loose")
    content["ingest"]["max_bad"] = 0.5
    return parse_params(content)


def ingested(params: Params, workspace: Workspace) -> dict[str, Any]:
    locate("idc", params, workspace)
    fetch("idc", params, workspace)
    return ingest("idc", params, workspace)


def test_a_folder_of_links_is_a_source(workspace: Workspace, of_folder: Params) -> None:
    """Half of it links to files elsewhere, a case a link to a folder, one link to nothing, and one to a secret."""
    members = idc_members()
    away = written(workspace.root / "away", members)
    folder = workspace.root / "loose"
    folder.mkdir()
    for case in ("10000", "10001"):
        (folder / case).symlink_to(away / case)
    for name in members:
        if not name.startswith(("10000/", "10001/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(away / name)
    gone = f"{next(iter(members)).rpartition('/')[0]}/gone.png".replace("10000", "10002")
    (folder / gone).symlink_to("moved.png")
    (workspace.root / "key").write_text("secret")
    (folder / "10002/key.png").symlink_to(workspace.root / "key")
    report = ingested(of_folder, workspace)
    assert (report["patches"], report["cases"], report["bad"]) == (120, 6, 1)
    assert report["set_aside"] == {
        "link to a path that is not in the archive": {"count": 1, "bad": True, "files": [gone]}
    }


def test_what_operating_systems_leave_in_a_source_changes_nothing(workspace: Workspace, of_folder: Params) -> None:
    folder = written(workspace.root / "loose", idc_members())
    before = locate("idc", of_folder, workspace)
    written(folder, dict.fromkeys(LEFT_BEHIND, b"\0"))
    assert locate("idc", of_folder, workspace) == before
    report = ingested(of_folder, workspace)
    assert (report["patches"], report["bad"], report["members"]) == (120, 0, 120)


def test_a_source_of_too_many_members_is_refused(workspace: Workspace, content: dict[str, Any]) -> None:
    content["ingest"]["max_members"] = 100
    for source in ("loose", "a.zip"):
        content["idc"]["source"] = source
        written(workspace.root / "loose", idc_members())
        write_zip(workspace.root / "a.zip", idc_members())
        with pytest.raises(HistopipeError, match=r"more than 100 files, folders and links: raise ingest\.max_members"):
            ingested(parse_params(content), workspace)
    assert not workspace.raw("idc").exists()


def test_a_left_over_beside_the_archive_is_not_taken_for_it(workspace: Workspace, params: Params) -> None:
    write_zip(workspace.raw("idc") / "archive.zip", idc_members())
    written(workspace.raw("idc"), {".DS_Store": b"\0", "._archive.zip": b"\0"})
    assert ingest("idc", params, workspace)["patches"] == 120


def test_names_that_windows_packed_survive_extraction(workspace: Workspace, of_folder: Params) -> None:
    """Some programs unpack `a\\b.png` into one file of that name."""
    written(workspace.root / "loose", {name.replace("/", "\\"): data for name, data in idc_members().items()})
    assert ingested(of_folder, workspace)["cases"] == 6
    with zipfile.ZipFile(next(workspace.raw("idc").iterdir())) as archive:
        assert len(archive.namelist()) == 120
