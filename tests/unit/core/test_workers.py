"""Work in another process while this one goes on."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from histopipe.core.errors import EvaluationError, HistopipeError
from histopipe.core.processes import BackgroundProcess


def write_process(path: Path) -> None:
    path.write_text(str(os.getpid()), encoding="utf-8")


def refuse(_path: Path) -> None:
    raise EvaluationError("nothing to draw")


def die(_path: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_work_is_done_in_another_process(tmp_path: Path) -> None:
    with BackgroundProcess([__name__], 2) as beside:
        for name in ("a", "b"):
            beside.start(write_process, tmp_path / name)
        beside.wait()
        found = {(tmp_path / name).read_text(encoding="utf-8") for name in ("a", "b")}
    assert len(found) == 1 and found != {str(os.getpid())}


def test_alone_the_work_is_done_at_once(tmp_path: Path) -> None:
    with BackgroundProcess([__name__], 1) as beside:
        beside.start(write_process, tmp_path / "a")
        assert (tmp_path / "a").read_text(encoding="utf-8") == str(os.getpid())
        beside.wait()


@pytest.mark.parametrize("processes", [1, 2])
def test_what_the_work_raises_arrives(tmp_path: Path, processes: int) -> None:
    with pytest.raises(EvaluationError, match="nothing to draw"), BackgroundProcess([__name__], processes) as beside:
        beside.start(refuse, tmp_path)
        beside.wait()


def test_a_killed_process_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(HistopipeError, match="worker process was killed"), BackgroundProcess([__name__], 2) as beside:
        beside.start(die, tmp_path)
        beside.wait()
