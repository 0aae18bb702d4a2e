"""The cost of the Prefect flow: the whole pipeline through it against `dvc repro` of the same stages, both cold.

Every run has a checkout of its own, so that nothing is up to date and neither Prefect nor MLflow has a database yet;
the flow starts its temporary server. Slides are few and the networks small: what is measured is what surrounds them.

    python -m benchmarks.orchestration
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click

from benchmarks.checkouts import change_params, copy_project, environment
from benchmarks.measuring import alternate, medians, report, run_command

WAYS = {"flow": ("-m", "flows.pipeline"), "dvc": ("-m", "dvc", "repro")}
QUICK = {"max_epochs": 1, "max_patches": 64, "max_image_size": 32, "weights": "random"}


def cold(folder: Path, architectures: Sequence[str], command: Sequence[str]) -> dict[str, float]:
    """Measure the seconds of the whole pipeline in a new checkout."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        root = Path(scratch) / "checkout"
        copy_project(root)
        synthetic = {"cases": 12, "patches": 600}
        change_params(root, architectures=list(architectures), synthetic=synthetic, quick=QUICK)
        return run_command([sys.executable, *command], root, environment(root)).measured


@click.command()
@click.option("--architecture", "architectures", multiple=True, default=("cancernet",), show_default=True)
@click.option("--rounds", default=5, show_default=True, help="How often each side runs.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path(tempfile.gettempdir()) / "histopipe-benchmarks")
def main(architectures: tuple[str, ...], rounds: int, folder: Path) -> None:
    """Compare the two ways; the last line is JSON and holds `ratio` and what the flow takes longer."""
    folder.mkdir(parents=True, exist_ok=True)
    sides = {name: partial(cold, folder, architectures, command) for name, command in WAYS.items()}
    results = {name: medians(measurements) for name, measurements in alternate(sides, rounds).items()}
    flow, alone = results["flow"]["seconds"], results["dvc"]["seconds"]
    report(
        "orchestration",
        ratio=round(alone / flow, 2),
        extra_seconds=round(flow - alone, 1),
        architectures=architectures,
        rounds=rounds,
        **results,
    )


if __name__ == "__main__":
    main()
