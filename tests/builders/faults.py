"""Processes found by what they run, killed with SIGKILL, and started anew as a service manager would."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.builders.checkouts import Checkout


@dataclass(frozen=True)
class Service:
    """How a server was started, so that it can be started again."""

    command: Sequence[str]
    environment: Mapping[str, str]
    folder: str

    @classmethod
    def of(cls, process: psutil.Process) -> Service:
        """Note how a running process was started."""
        return cls(process.cmdline(), process.environ(), process.cwd())

    def start(self, log: Path) -> subprocess.Popen[bytes]:
        """Start it again, with its output added to a log."""
        with log.open("a") as output:
            return subprocess.Popen(
                self.command, cwd=self.folder, env=dict(self.environment), stdout=output, stderr=output
            )


@dataclass
class ServiceManager:
    """Keeps servers up: those that tests started, by words of their commands.

    Attributes:
        words: what tells each one's command from all others, by name.
        folder: for the logs of those started anew.
    """

    words: Mapping[str, Sequence[str]]
    folder: Path
    _known: dict[str, Service] = field(default_factory=dict)
    _started: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __enter__(self) -> ServiceManager:
        for name, words in self.words.items():
            process = self._process(words)
            assert process is not None, f"{' '.join(words)} doesn't run"
            self._known[name] = Service.of(process)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._started.values():
            process.terminate()
        for process in self._started.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                kill_with_children(psutil.Process(process.pid))

    def kill(self, name: str, alone: bool = False) -> None:
        """Kill a server with all that it started, or alone so that its children have to notice."""
        process = self._process(self.words[name])
        if process is None:
            return
        if alone:
            process.kill()
        else:
            kill_with_children(process)
        psutil.wait_procs([process], timeout=30)

    def restart(self, name: str) -> None:
        """Start a killed one anew, again and again where it ends at once: its port may still be held."""
        for _ in range(20):
            process = self._known[name].start(self.folder / f"{name}-again.log")
            time.sleep(1)
            if process.poll() is None:
                self._started[name] = process
                return
        raise AssertionError(f"{name} doesn't start again: see {name}-again.log")

    def tend(self) -> list[str]:
        """Start anew those that ended by themselves, for a server that they lost; returns their names."""
        ended = [name for name, words in self.words.items() if self._process(words) is None]
        for name in ended:
            self.restart(name)
        return ended

    def _process(self, words: Sequence[str]) -> psutil.Process | None:
        found = [child for child in psutil.Process().children() if _runs(child, words)]
        assert len(found) <= 1, f"{' '.join(words)}: {len(found)} processes"
        return next(iter(found), None)


def kill_with_children(process: psutil.Process) -> None:
    """Kill a process with all that it started, as when its machine or container ends."""
    family = [process, *process.children(recursive=True)]
    for one in family:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family, timeout=30)


def processes(folders: Sequence[Path], *words: str) -> Iterator[psutil.Process]:
    """Find processes whose current folder is one of these and whose command has all these words."""
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()) in folders and _runs(process, words):
                yield process
        except psutil.Error:
            continue


def _runs(process: psutil.Process, words: Sequence[str]) -> bool:
    try:
        command = [argument.rpartition("/")[2] for argument in process.cmdline()]
        return process.status() != psutil.STATUS_ZOMBIE and set(words) <= set(command)
    except psutil.Error:
        return False


def trainers(project: Checkout) -> list[psutil.Process]:
    """Find processes in the checkout that run `histopipe train`, not the `dvc` or shell that started them."""
    found = []
    for process in psutil.process_iter():
        try:
            command = [Path(argument).name for argument in process.cmdline()]
            if Path(process.cwd()) == project.root and {"histopipe", "train"} <= set(command):
                found.append(process)
        except psutil.Error:
            continue
    return found
