"""Measure several ways of one job in one run: alternating, most of them each in its own process."""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
import psutil

SAMPLE_SECONDS = 0.1
Environment = Mapping[str, str] | None


def alternate(sides: Mapping[str, Callable[[], dict[str, float]]], rounds: int) -> dict[str, list[dict[str, float]]]:
    """Measure each side `rounds` times in turn, so that changes in the machine's load affect all of them."""
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for number in range(rounds):
        for name, measure in sides.items():
            measured[name].append(measure())
            print(f"round {number + 1}/{rounds} {name}: {measured[name][-1]}", file=sys.stderr, flush=True)
    return measured


def side_options(sides: Sequence[str]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the options of a benchmark whose sides take turns: `rounds`, `folder` (for kept drawings), `side`."""
    kept = Path(tempfile.gettempdir()) / "histopipe-benchmarks"
    options = (
        click.option("--rounds", default=5, show_default=True, help="How often each side runs."),
        click.option("--folder", type=click.Path(path_type=Path), default=kept),
        click.option("--side", type=click.Choice(sides), hidden=True),
    )

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def sides_in_turn(module: str, sides: Sequence[str], rounds: int, *options: str) -> dict[str, dict[str, float]]:
    """Run each side in its own process by the hidden option `--side`, and return its medians."""
    runs = {name: partial(run_side, f"benchmarks.{module}", *options, "--side", name) for name in sides}
    return {name: medians(measurements) for name, measurements in alternate(runs, rounds).items()}


def medians(measurements: list[dict[str, float]]) -> dict[str, float]:
    """Compute the median of every quantity over the rounds."""
    return {
        name: round(statistics.median(measurement[name] for measurement in measurements), 3) for name in measurements[0]
    }


class Finished(NamedTuple):
    """A completed command: its duration, the peak memory of its processes, and its output."""

    seconds: float
    peak_gib: float
    output: str

    @property
    def measured(self) -> dict[str, float]:
        """The seconds and the peak memory."""
        return {"seconds": round(self.seconds, 3), "peak_gib": self.peak_gib}


def run_command(command: Sequence[str], folder: Path | None = None, surroundings: Environment = None) -> Finished:
    """Run a command in `folder` to its end; its stderr is shown.

    Raises:
        SystemExit: it failed.
    """
    began = time.perf_counter()
    with subprocess.Popen(command, cwd=folder, env=surroundings, stdout=subprocess.PIPE, text=True) as child:
        with ThreadPoolExecutor(1) as pool:
            peak = pool.submit(_peak_memory, child)
            output, _ = child.communicate()
            seconds = time.perf_counter() - began  # before the sampling of its memory notices the end
        if child.returncode != 0:
            raise SystemExit(f"{' '.join(command)} ended with {child.returncode}: {output[-2000:]}")
    return Finished(seconds, round(peak.result() / 2**30, 3), output)


def run_side(*command: str, folder: Path | None = None, surroundings: Environment = None) -> dict[str, float]:
    """Run `python -m …` as a child whose last line is JSON, and add `peak_gib`, the memory of all its processes."""
    done = run_command([sys.executable, "-m", *command], folder, surroundings)
    result: dict[str, float] = json.loads(done.output.strip().splitlines()[-1])
    return result | {"peak_gib": done.peak_gib}


def _peak_memory(child: subprocess.Popen[str]) -> int:
    """Return the largest sum, over the child's life, of its processes' resident memory."""
    peak = 0
    while child.poll() is None:
        peak = max(peak, _memory(child.pid))
        time.sleep(SAMPLE_SECONDS)
    return peak


def _memory(pid: int) -> int:
    try:
        parent = psutil.Process(pid)
        return sum(process.memory_info().rss for process in (parent, *parent.children(recursive=True)))
    except psutil.Error:
        return 0


def machine() -> dict[str, Any]:
    """Describe the machine."""
    return {
        "processor": _processor(),
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
    }


def _processor() -> str:
    """Return the processor's name; only Linux reports more than the architecture."""
    described = Path("/proc/cpuinfo")
    lines = described.read_text(encoding="utf-8").splitlines() if described.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def report(benchmark: str, ratio: float | str, **content: Any) -> None:
    """Print the closing JSON line.

    Args:
        benchmark: its name.
        ratio: the rival's cost over ours; words where there is none, which say why: `ratio` is then null.
        content: the rest.
    """
    compared = {"ratio": None, "no_ratio": ratio} if isinstance(ratio, str) else {"ratio": ratio}
    print(json.dumps({"benchmark": benchmark, **compared, **content, "machine": machine()}))
