"""Whatever archives, images, names, tables and requests hold: an answer or a refusal, in bounded time and memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.builders.paths import ROOT
from tests.fuzz.reader import READ

SEED = 1
SHORT = 40  # inputs for each reader
LONG = {
    "png": 17_000,
    "jpeg": 10_000,
    "tiff": 14_000,
    "bmp": 5_000,
    "zip": 12_000,
    "tar": 12_000,
    "source": 6_000,
    "graded archive": 5_000,
    "graded file": 3_000,
    "name": 8_000,
    "manifest": 4_000,
    "manifest's path": 500,
    "part": 2_000,
    "request": 5_000,
}

Ended = subprocess.CompletedProcess[str]


def campaign(folder: Path, seed: int, *asked: str) -> Ended:
    """Run campaigns in a process of their own, whose folders of every kind are empty ones."""
    places = {name: str(folder / name) for name in ("home", "tmp", "work", "run")}
    for place in places.values():
        Path(place).mkdir()
    surroundings = {"HOME": places["home"], "TMPDIR": places["tmp"], "PYTHONPATH": str(ROOT)}
    quick = {"HYPOTHESIS_NO_PLUGINS": "1", "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "tests.fuzz.campaign", places["run"], str(seed), *asked]
    env = {**os.environ, **surroundings, **quick}
    ended = subprocess.run(command, env=env, cwd=places["work"], capture_output=True, text=True, check=False)
    assert not [path for name in ("home", "tmp", "work") for path in Path(places[name]).iterdir()]
    return ended


def tallies(ended: Ended) -> list[dict[str, Any]]:
    assert ended.returncode == 0, ended.stderr[-5000:]
    return [json.loads(line) for line in ended.stdout.splitlines()]


def test_a_few_inputs_for_every_reader(tmp_path: Path) -> None:
    found = tallies(campaign(tmp_path, SEED, *(f"{name}={SHORT}" for name in LONG)))
    assert [(tally["reader"], tally["inputs"] >= SHORT) for tally in found] == [(name, True) for name in LONG]


def test_there_are_at_least_100_000_inputs_in_all() -> None:
    assert sum(LONG.values()) >= 100_000


@pytest.mark.long
@pytest.mark.parametrize("name", LONG)
def test_many_inputs(name: str, tmp_path: Path) -> None:
    (tally,) = tallies(campaign(tmp_path, int(time.time()), f"{name}={LONG[name]}"))
    print(tally)
    assert tally["inputs"] >= LONG[name]
    assert tally["outcomes"][READ] > 0 and len(tally["outcomes"]) > 1


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("FAIL", "IndexError"),
        ("DEVOUR", "MB for one input"),
        ("OVERREACH", "MemoryError"),
        ("LITTER", "'more'"),
        ("STRAY", "beside"),
        ("CRASH", -signal.SIGSEGV),
        ("HANG", -signal.SIGPROF),
    ],
)
def test_a_reader_that_fails_is_found_out(fault: str, said: str | int, tmp_path: Path) -> None:
    ended = campaign(tmp_path, SEED, f"tests.fuzz.faults:{fault}=50")
    if isinstance(said, int):
        assert ended.returncode == said
        assert (tmp_path / "run" / "inputs" / "input").read_bytes()
    else:
        assert ended.returncode == 1 and said in ended.stderr
