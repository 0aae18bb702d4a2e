"""A kill leaves a whole version of what was there, and its remains go with the next run."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import pytest

from histopipe.core import files
from histopipe.core.errors import HistopipeError
from histopipe.core.files import replaced_file, replaced_folder, temporary_path, write_text

ENDINGS: tuple[Literal["part", "old"], ...] = ("part", "old")
DIES = """
import os, sys
from pathlib import Path
from histopipe.core.files import replaced_folder

left = int(sys.argv[2])

def die(event, arguments):
    global left
    if event in ("os.rename", "shutil.rmtree"):
        left -= 1
        if left == 0:
            os._exit(9)

with replaced_folder(Path(sys.argv[1])) as folder:
    (folder / "version").write_text("new")
    sys.addaudithook(die)
"""


def make_folder(path: Path, version: str) -> Path:
    path.mkdir(parents=True)
    (path / "version").write_text(version)
    return path


def start_and_fail(path: Path) -> None:
    with contextlib.suppress(KeyError), replaced_folder(path):
        raise KeyError


def dead_pid() -> int:
    child = subprocess.Popen(["true"])
    child.wait()
    return child.pid


@pytest.mark.parametrize("moment", [1, 2, 3])
def test_a_kill_at_any_moment_leaves_one_whole_version(tmp_path: Path, moment: int) -> None:
    path = make_folder(tmp_path / "store", "old")
    done = subprocess.run([sys.executable, "-c", DIES, str(path), str(moment)], check=False)
    assert done.returncode == 9
    start_and_fail(path)
    assert (path / "version").read_text() == ("old" if moment < 3 else "new")
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_folder_takes_the_place_of_read_only_files(tmp_path: Path) -> None:
    path = make_folder(tmp_path / "store", "old")
    (path / "version").chmod(0o444)  # as DVC links its cache
    cached = tmp_path / "cached"
    os.link(path / "version", cached)
    with replaced_folder(path) as folder:
        (folder / "version").write_text("new")
    assert (path / "version").read_text() == "new"
    assert cached.read_text() == "old"
    assert sorted(tmp_path.iterdir()) == [cached, path]


def test_a_failure_keeps_the_old_folder(tmp_path: Path) -> None:
    path = make_folder(tmp_path / "store", "old")
    start_and_fail(path)
    assert (path / "version").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_folder_that_cannot_move_in_brings_the_old_one_back(tmp_path: Path) -> None:
    path = make_folder(tmp_path / "store", "old")
    with pytest.raises(FileNotFoundError), replaced_folder(path) as folder:
        folder.rmdir()
    assert (path / "version").read_text() == "old"


def test_left_overs_of_other_names_stay(tmp_path: Path) -> None:
    pid = dead_pid()
    others = [temporary_path(tmp_path / name, ending, pid) for name in ("store.v2", "stores") for ending in ENDINGS]
    foreign = [tmp_path / name for name in (".store.7.part", f".store.{pid}-0a1b2c3d.part", f".store.{pid}.old")]
    for path in (*others, *foreign, temporary_path(tmp_path / "store", "part", pid)):
        make_folder(path, "x")
    start_and_fail(tmp_path / "store")
    write_text(tmp_path / "store", "x")
    assert sorted(tmp_path.iterdir()) == sorted([*others, *foreign, tmp_path / "store"])


def test_an_old_version_with_a_file_of_a_users_is_not_deleted(tmp_path: Path) -> None:
    def check(folder: Path) -> None:
        if (folder / "thesis.txt").exists():
            raise HistopipeError("thesis.txt")

    path, aside = make_folder(tmp_path / "store", "new"), temporary_path(tmp_path / "store", "old", dead_pid())
    make_folder(aside, "old")
    (aside / "thesis.txt").write_text("mine")
    with replaced_folder(path, check) as folder:
        (folder / "version").write_text("newer")
    assert (aside / "thesis.txt").read_text() == "mine" and (path / "version").read_text() == "newer"
    (aside / "thesis.txt").unlink()
    with replaced_folder(path, check) as folder:
        (folder / "version").write_text("newest")
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_check_refuses_stays_even_if_it_came_meanwhile(tmp_path: Path) -> None:
    def check(folder: Path) -> None:
        if (folder / "thesis.txt").exists():
            raise HistopipeError("thesis.txt")

    path = make_folder(tmp_path / "store", "old")
    with pytest.raises(HistopipeError, match="thesis"), replaced_folder(path, check) as folder:
        (folder / "version").write_text("new")
        (path / "thesis.txt").write_text("mine")
    assert sorted(entry.name for entry in path.iterdir()) == ["thesis.txt", "version"]
    assert list(tmp_path.iterdir()) == [path]


def test_another_machines_process_may_be_writing_still(tmp_path: Path) -> None:
    ours = temporary_path(tmp_path / "a.csv", "part", dead_pid())
    theirs = ours.with_name(re.sub(r"-[0-9a-f]{4}", "-" + ("0000" if "-0000" not in ours.name else "1111"), ours.name))
    for path in (ours, theirs):
        path.touch()
    assert files.is_abandoned(ours) and not files.is_abandoned(theirs)
    long_ago = time.time() - files.ABANDONED_SECONDS - 60
    os.utime(theirs, (long_ago, long_ago))
    assert files.is_abandoned(theirs)


def test_files_of_dead_runs_are_swept_and_those_being_written_stay(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as writer:
        dead, old = temporary_path(path, "part", dead_pid()), temporary_path(path, "part", 1)
        alive, other = temporary_path(path, "part", writer.pid), temporary_path(tmp_path / "b.csv", "part", dead_pid())
        for left_over in (dead, old, alive, other):
            left_over.write_text("half")
        long_ago = time.time() - files.ABANDONED_SECONDS - 60
        os.utime(old, (long_ago, long_ago))  # its process id runs, but by now it is another process
        write_text(path, "whole")
        assert path.read_text() == "whole"
        assert sorted(tmp_path.iterdir()) == sorted([alive, other, path])
        writer.communicate(b"\n")


def test_two_may_write_one_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    writer = "import sys\nfrom pathlib import Path\nfrom histopipe.core.files import write_text\n" + (
        "for number in range(300):\n    write_text(Path(sys.argv[1]), sys.argv[2] * 1000)\n"
    )
    children = [subprocess.Popen([sys.executable, "-c", writer, str(path), text]) for text in "ab"]
    assert [child.wait() for child in children] == [0, 0]
    assert path.read_text() in ("a" * 1000, "b" * 1000)
    assert list(tmp_path.iterdir()) == [path]


def test_threads_of_one_process_may_write_one_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: write_text(path, str(number % 8) * 1000), range(400)))
    with replaced_file(path) as one, replaced_file(path) as other:
        assert one != other
        for beside in (one, other):
            beside.write_text("x")
            assert files.parse_temporary_name(beside.name) == ("a.json", os.getpid(), "part")
            assert not files.is_abandoned(beside)
    assert path.read_text() == "x" and list(tmp_path.iterdir()) == [path]


def test_a_failure_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("old")
    with pytest.raises(KeyError), replaced_file(path) as beside:
        beside.write_text("half")
        raise KeyError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
