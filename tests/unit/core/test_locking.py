"""Tables that several processes add to: no row is lost, no lock stays, links stay links."""

from __future__ import annotations

import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import pytest

from histopipe.core import locking
from histopipe.core.errors import BusyError, PseudonymError
from histopipe.core.files import read_json
from histopipe.core.locking import exclusive_lock, is_held
from histopipe.export.report import add_to_report
from histopipe.inference.pseudonyms import Pseudonyms, choose_names, write_key_table

HOLDER = """
import sys, time
from pathlib import Path
from histopipe.core.locking import locked_file
with locked_file(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def add_rows(table: Path, writer: int) -> None:
    for number in range(25):
        write_key_table(Pseudonyms(b"", {f"case-{writer}-{number}": f"{writer}/{number}"}), table)


def together(function: Callable[..., None], arguments: list[tuple[object, ...]]) -> None:
    # of interpreters of their own: a fork would inherit the threads of whatever tests this process ran before
    started = [multiprocessing.get_context("spawn").Process(target=function, args=each) for each in arguments]
    for process in started:
        process.start()
    for process in started:
        process.join(60)
    assert [process.exitcode for process in started] == [0] * len(started)


def test_rows_that_several_write_at_once_are_all_kept(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    together(add_rows, [(table, writer) for writer in range(8)])
    assert len(pd.read_csv(table)) == 8 * 25
    assert stat.S_IMODE(table.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [table], "no lock or left-over stays"


def holder(table: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(table)], stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "held\n"
    return process


def test_a_killed_writer_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "table.csv"
    process = holder(table)
    monkeypatch.setattr(locking, "WAIT_SECONDS", 0.2)
    with pytest.raises(BusyError, match=r"table\.csv is held by another process"):
        add_rows(table, 0)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    begun = time.monotonic()
    add_rows(table, 0)
    assert time.monotonic() - begun < 20 and len(pd.read_csv(table)) == 25


def test_a_link_to_a_table_stays_a_link_and_its_group_keeps_access(tmp_path: Path) -> None:
    (tmp_path / "safe").mkdir()
    table, link = tmp_path / "safe/table.csv", tmp_path / "table.csv"
    link.symlink_to(table)
    choose_names(True, None, link, tmp_path / "out")
    add_rows(link, 0)
    table.chmod(0o660)
    add_rows(link, 1)
    assert link.is_symlink() and len(pd.read_csv(table)) == 50
    assert stat.S_IMODE(table.stat().st_mode) == 0o660
    assert list((tmp_path / "safe").iterdir()) == [table]


def test_a_place_without_locks_is_told_before_anything_is_graded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(next(iter(locking.NO_LOCKS)), "No locks available")

    monkeypatch.setattr(locking.fcntl, "flock", refused)
    with pytest.raises(PseudonymError, match=r"can't be locked.*name a path on a file system that has locks"):
        choose_names(True, None, tmp_path / "table.csv", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_table_takes_the_place_of_no_device_pipe_or_folder(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to("/dev/null")
    for name in ("pipe", "null", "."):
        with pytest.raises(PseudonymError, match=r"no table of pseudonyms"):
            choose_names(True, None, tmp_path / name, tmp_path / "out")


def test_a_table_lies_in_the_results_by_no_spelling_of_their_name(tmp_path: Path) -> None:
    with pytest.raises(PseudonymError, match=r"would reveal the cases"):
        choose_names(True, None, tmp_path / "Results" / "t.csv", tmp_path / "results")
    assert list(tmp_path.iterdir()) == []


def test_names_that_are_no_text_come_back_as_they_are(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xffpatient")
    write_key_table(Pseudonyms(b"", {"case-a": name}), tmp_path / "table.csv")
    write_key_table(Pseudonyms(b"", {"case-b": "b"}), tmp_path / "table.csv")
    assert b"case-a,\xffpatient" in (tmp_path / "table.csv").read_bytes()


def add_exports(folder: Path, writer: int) -> None:
    with patch("histopipe.export.report.render_page", str):  # which asks more of a record than this one holds
        for number in range(20):
            name = f"{writer}-{number}.onnx"
            (folder / name).touch()
            add_to_report(folder, name, {"facts": {}})


def test_exports_into_one_folder_are_all_in_its_report(tmp_path: Path) -> None:
    together(add_exports, [(tmp_path, writer) for writer in range(4)])
    assert len(read_json(tmp_path / "export.json")["exports"]) == 80


def test_a_lock_file_is_held_by_one_at_a_time_and_says_who_has_to_wait(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "stage.lock"
    with exclusive_lock(path):
        assert is_held(path)
        with (
            pytest.raises(BusyError, match="the stage runs: wait"),
            exclusive_lock(path, "the stage runs: wait", 0.1),
        ):
            pytest.fail("held twice")
        with pytest.raises(BusyError, match=r"holds .*stage\.lock: wait for it to end"), exclusive_lock(path, wait=0):
            pytest.fail("held twice")
    assert not is_held(path)
