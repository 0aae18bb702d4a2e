"""Damaged inputs for readers, in a process of their own: `python -m tests.fuzz.campaign FOLDER SEED READER=COUNT…`.

A crash, or more processor time for one input than `SECONDS`, ends the process by a signal, too much memory with a line
that says so; the input then lies in FOLDER/inputs/input. What a reader raises, and what it writes elsewhere than into
FOLDER, ends it with Hypothesis' smallest example. Prints one line of JSON for each reader.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis.configuration import set_hypothesis_home_dir

from tests.fuzz.reader import Reader

SECONDS = 2.0  # of processor time for one input
MEMORY = 160 * 2**10  # kB by which one input may raise the process's peak: some copies of 4 million pixels
ADDRESSES = 3 * 2**30  # bytes of addresses beyond those of the loaded libraries; a reader that asks for more finds none
ROUND = 1000  # inputs: Hypothesis remembers all of one run

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_CHANGES = {f"os.{name}" for name in ("mkdir", "rename", "link", "symlink", "remove", "rmdir", "truncate")}


@dataclass
class Tally:
    """What became of the inputs.

    Attributes:
        outcomes: how many were read, and how many refused for each reason.
        seconds: processor time of the slowest.
        megabytes: by which one raised the peak of memory, at most.
    """

    reader: str
    inputs: int = 0
    seconds: float = 0.0
    megabytes: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)


class Watch:
    """Notes what is written, made or removed beside the campaign's folder while an input is read."""

    def __init__(self, folder: Path) -> None:
        self._inside = str(folder)
        self.on = False
        self.noted: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on or (event not in _CHANGES and not (event == "open" and arguments[2] & _WRITING)):
            return
        target = arguments[0]
        if not isinstance(target, int) and not os.fsdecode(target).startswith(self._inside):
            self.noted.append(f"{event} {target!r}")


def campaign(name: str, reader: Reader, count: int, seed: int, watch: Watch, folder: Path) -> Tally:
    """Give a reader so many inputs."""
    tally = Tally(name)
    for start in range(0, count, ROUND):
        _round(reader, min(ROUND, count - start), seed + start, watch, folder, tally)
    return tally


def _round(reader: Reader, count: int, seed: int, watch: Watch, folder: Path, tally: Tally) -> None:
    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
    )
    @hypothesis.given(reader.inputs)
    def give(given: Any) -> None:
        tally.inputs += 1
        _give(reader, given, watch, folder, tally)

    give()


def _give(reader: Reader, given: Any, watch: Watch, folder: Path, tally: Tally) -> None:
    (folder / "input").write_bytes(given if isinstance(given, bytes) else repr(given).encode())
    first = tally.inputs == 1  # loads what is loaded at first use, which takes time and memory of its own
    peak, start = _peak(), time.process_time()
    signal.setitimer(signal.ITIMER_PROF, 10 * SECONDS if first else SECONDS)  # whose signal ends the process
    watch.on = True
    try:
        tally.outcomes[reader.read(given, folder)] += 1
    finally:
        watch.on = False
        signal.setitimer(signal.ITIMER_PROF, 0)
    assert not watch.noted, watch.noted
    found = sorted(path.name for path in folder.iterdir())
    assert found == ["input"], found
    if first:
        return
    tally.seconds = max(tally.seconds, round(time.process_time() - start, 3))
    tally.megabytes = max(tally.megabytes, round((_peak() - peak) / 2**10, 1))
    if _peak() - peak > MEMORY:  # the end: a second time, the same input wouldn't raise the peak
        print(f"{(_peak() - peak) / 2**10:.0f} MB for one input", file=sys.stderr, flush=True)
        os._exit(1)


def _peak() -> int:
    """Of resident memory, in kB; not `ru_maxrss`, which starts with what the parent process had."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return int(status.partition("VmHWM:")[2].split(maxsplit=1)[0])


def _limit_addresses() -> None:
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + ADDRESSES, taken + ADDRESSES))


def _reader(name: str) -> Reader:
    """One of `tests.fuzz.readers`, or any other as MODULE:NAME."""
    module, _, attribute = name.rpartition(":")
    if module:
        return getattr(importlib.import_module(module), attribute)
    return importlib.import_module("tests.fuzz.readers").READERS[name]


def main(folder: str, seed: str, *asked: str) -> None:
    """Run the campaigns that the command line asks for."""
    set_hypothesis_home_dir(Path(folder) / "hypothesis")
    inputs = Path(folder) / "inputs"
    inputs.mkdir()
    watch = Watch(inputs)
    _limit_addresses()
    for name, _, count in (one.rpartition("=") for one in asked):
        reader = _reader(name)
        print(json.dumps(vars(campaign(name, reader, int(count), int(seed), watch, inputs))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
