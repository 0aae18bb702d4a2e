"""What counts as garbage: ages, sizes, names of half-written files, whose checkpoint is whose."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from histopipe.errors import HistopipeError
from histopipe.files import left_over_name, replaced_file
from histopipe.gc.activity import _work
from histopipe.gc.leftover import Age, room
from histopipe.gc.remains import half_written, old_notes, outdated_checkpoints
from histopipe.paths import Workspace
from histopipe.training.checkpoint import CHECKPOINT_FILE

DEAD = 2**22 + 1  # above Linux' highest process id


@pytest.mark.parametrize(("written", "seconds"), [("7d", 604800), ("1.5h", 5400), ("0", 0), ("2w", 1209600), ("0d", 0)])
def test_ages_are_read_as_people_write_them(written: str, seconds: float) -> None:
    assert Age.parse(written).seconds == seconds


@pytest.mark.parametrize("written", ["", "7", "d", "-1d", "7 days", "1e9d"])
def test_what_is_no_age_is_refused(written: str) -> None:
    with pytest.raises(HistopipeError, match="--older-than"):
        Age.parse(written)


def test_a_folder_is_as_old_as_its_newest_file(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    new = tmp_path / "a" / "new"
    new.touch()
    for path in (new, tmp_path / "a"):
        os.utime(path, (time.time() - 1000, time.time() - 1000))
    assert Age.parse("10m").passed(tmp_path / "a")
    new.touch()
    assert not Age.parse("10m").passed(tmp_path / "a")


def test_what_has_a_second_name_elsewhere_gives_back_no_room(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"12345")
    assert room([tmp_path / "one"]) == 5
    (tmp_path / "two").hardlink_to(tmp_path / "one")
    assert room([tmp_path / "one"]) == 0


def test_the_names_of_files_being_written_are_known(tmp_path: Path) -> None:
    with replaced_file(tmp_path / "a.json") as beside:
        assert left_over_name(beside.name) == ("a.json", os.getpid(), "part")
        beside.touch()
    assert left_over_name("a.json") is None and left_over_name("notes.part") is None


@pytest.fixture
def repository(workspace: Workspace) -> Workspace:
    subprocess.run(["git", "init", "--quiet"], cwd=workspace.root, check=True)
    return workspace


def test_half_written_files_go_but_for_live_ones_tracked_ones_and_the_only_version(repository: Workspace) -> None:
    reports = repository.root / "reports"
    reports.mkdir()
    gone, live, tracked = (reports / f".{name}.part" for name in (f"a.{DEAD}", f"b.{os.getpid()}", f"c.{DEAD}"))
    only = reports / f".idc.{DEAD}.old"
    for path in (gone, live, tracked):
        path.touch()
    only.mkdir()
    subprocess.run(["git", "add", "-f", str(tracked)], cwd=repository.root, check=True)
    (line,) = half_written(repository)
    assert line.count == 1 and line.removal
    line.removal()
    assert sorted(reports.iterdir()) == sorted([live, tracked, only])
    (reports / "idc").mkdir()  # the new version is there: the old one isn't needed
    (line,) = half_written(repository)
    assert line.removal
    line.removal()
    assert not only.exists()


def test_a_checkpoint_of_a_recipe_that_is_gone_goes_once_it_is_old(repository: Workspace) -> None:
    place = repository.checkpoint("idc", "no_such_recipe")
    place.mkdir(parents=True)
    (place / CHECKPOINT_FILE).write_bytes(b"x")
    (line,) = outdated_checkpoints(repository, Age.parse("7d"))
    assert line.state == "kept" and line.removal is None
    (line,) = outdated_checkpoints(repository, Age.parse("0d"))
    assert line.removal
    line.removal()
    assert not place.exists()


def test_a_checkpoint_that_a_training_may_go_on_with_stays(repository: Workspace) -> None:
    place = repository.checkpoint("idc", "cancernet")
    place.mkdir(parents=True)
    (place / CHECKPOINT_FILE).write_bytes(b"x")  # no store to say what its training would look for
    assert list(outdated_checkpoints(repository, Age.parse("0d"))) == []


def test_unfinished_downloads_wait_for_their_age(repository: Workspace) -> None:
    part = repository.downloads("idc") / "archive.zip.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"half")
    assert not list(old_notes(repository, Age.parse("7d")))
    (line,) = old_notes(repository, Age.parse("0d"))
    assert line.what == "unfinished downloads" and line.size == 4


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("python -m flows.pipeline", "flows.pipeline"),
        ("python -m prefect.flow_engine", "prefect.flow_engine"),
        ("/venv/bin/python /venv/bin/dvc repro", "dvc repro"),
        ("python -m dvc --wait-for-lock repro", "dvc repro"),
        ("python -m flows.serve", ""),
        ("python -m dvc status", ""),
        ("vim dvc.yaml", ""),
        ("bash", ""),
    ],
)
def test_flows_and_dvc_are_told_from_servers_and_editors(command: str, said: str) -> None:
    assert _work(command.split()) == said
