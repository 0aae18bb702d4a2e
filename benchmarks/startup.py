"""Time until the first output: `histopipe --help`, and the first training step of cancernet.

The step is seen from outside: the stage's progress bar, which is drawn after every batch, says 1 for the first time.
The recipe is trained as `params.yaml` has it, on the store of a full-size archive, and stopped there; with MLflow's
database to be made (the first training of a checkout) and with the one that was made so (every later one).

    python -m benchmarks.startup             # 277,524 patches; a minute or two longer the first time
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import click

from benchmarks.checkouts import claim, environment
from benchmarks.ingest import PUBLISHED_PATCHES, full_size_archive
from benchmarks.measuring import alternate, medians, report, run_command
from benchmarks.recipes import ROOT, ingest_into, run_stage, shipped_params

HISTOPIPE = (sys.executable, "-m", "histopipe")
HELP_LIMIT, STEP_LIMIT = 0.5, 15.0  # seconds
_ONE_BATCH = re.compile(rb" 1/\d+ \[")


def prepared(folder: Path, patches: int) -> Path:
    """Make a workspace in which cancernet could be trained next, once."""
    root = folder / f"startup-{patches}"
    if not (root / "data" / "weights" / "cancernet").exists():
        claim(root, emptied=True)
        ingest_into(root, "idc", full_size_archive(folder, patches), shipped_params() | {"quick": None})
        run_stage(root, "split", "idc")
        run_stage(root, "weights", "cancernet")
    return root


def shown_help() -> dict[str, float]:
    """Measure the seconds until the command has listed the stages."""
    return run_command([*HISTOPIPE, "--help"], ROOT, environment(ROOT)).measured


def first_step(root: Path, database: bool) -> dict[str, float]:
    """Measure the seconds from the start of the train stage to the end of its first step; then stop it.

    Args:
        root: the workspace.
        database: whether it keeps MLflow's.
    """
    shutil.rmtree(root / ".checkpoints", ignore_errors=True)
    for made in () if database else root.glob("mlflow.db*"):
        made.unlink()
    began = time.perf_counter()
    command = [*HISTOPIPE, "train", "idc", "cancernet"]
    with subprocess.Popen(command, cwd=root, env=environment(ROOT), stderr=subprocess.PIPE, stdout=sys.stderr) as child:
        assert child.stderr is not None
        output = b""
        for part in _parts(child.stderr):
            output += part
            if _ONE_BATCH.search(output):
                break
        seconds = time.perf_counter() - began
        child.kill()
    if not _ONE_BATCH.search(output):
        raise SystemExit(f"{' '.join(command)} ended before its first step: {output.decode(errors='replace')[-2000:]}")
    return {"seconds": round(seconds, 3)}


def _parts(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield output as it arrives: a progress bar ends no line."""
    while part := os.read(stream.fileno(), 4096):
        yield part


@click.command()
@click.option("--patches", default=PUBLISHED_PATCHES, show_default=True, help="Size of the archive.")
@click.option("--rounds", default=5, show_default=True, help="How often each is measured.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path(tempfile.gettempdir()) / "histopipe-benchmarks")
def main(patches: int, rounds: int, folder: Path) -> None:
    """Measure; the last line is JSON and holds `ratio`: limit over seconds, of the one that comes nearest its limit."""
    folder.mkdir(parents=True, exist_ok=True)
    root = prepared(folder.resolve(), patches)
    sides = {
        "help": shown_help,
        "first_training": lambda: first_step(root, database=False),
        "next_training": lambda: first_step(root, database=True),
    }
    results = {name: medians(measurements) for name, measurements in alternate(sides, rounds).items()}
    limits = {"help": HELP_LIMIT, "first_training": STEP_LIMIT, "next_training": STEP_LIMIT}
    ratios = {name: round(limit / results[name]["seconds"], 2) for name, limit in limits.items()}
    ratio = min(ratios.values())
    report("startup", ratio=ratio, patches=patches, rounds=rounds, limits=limits, ratios=ratios, **results)


if __name__ == "__main__":
    main()
