"""The cost of a patch in a large data set and in a small one: time of ingest, split and evaluation, and memory.

Slides grow in number, not in size. A few cases are drawn; larger archives repeat their patches, byte by byte, under
further case ids (ingest counts patches of equal pixels in two cases, but drops none). The job `grade` is `evaluate`
without network and pictures: thresholds, every metric with its interval, and all tables, from logits drawn at random.

What starts, loads and draws once is spread over few patches in a small size. `ratio` tells how much dearer a patch gets
all the same: what it costs in the largest size, under what it costs in the cheapest smaller one, the least of all jobs.
Memory is given with what a further patch adds to it, in kB.

    python -m benchmarks.scaling
    python -m benchmarks.scaling --size 25000 --size 277524 --size 2500000 --rounds 1   # half an hour, 40 GB of disk
"""

from __future__ import annotations

import json
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.checkouts import ROOT, claim
from benchmarks.ingest import ours as ingested
from benchmarks.measuring import alternate, medians, report, run_side

BASE_PATCHES, BASE_CASES = 5_000, 5  # of a thousand patches, as Kaggle's
CLASS_GAP = 2.2  # between the classes' log odds, in standard deviations, as in benchmarks.coverage
COPY_IDS = 100_000  # added to the case ids for every copy, which leaves room for five digits

Measurements = dict[str, dict[str, float]]  # by "job size"


def repeated_archive(folder: Path, patches: int) -> Path:
    """Make an archive of that many patches, once: a few cases drawn and repeated under other ids."""
    from histopipe.core.files import replaced_file
    from histopipe.ingest.synthetic.archive import write_archive
    from histopipe.ingest.synthetic.plan import SyntheticSlides

    base, archive = folder / "scaling-base.zip", folder / f"scaling-{patches}.zip"
    if not base.exists():
        write_archive(base, SyntheticSlides(cases=BASE_CASES, patches=BASE_PATCHES, nested_copy=False))
    if not archive.exists():
        with zipfile.ZipFile(base) as drawn, replaced_file(archive) as file, zipfile.ZipFile(file, "w") as written:
            members = [(entry.filename, drawn.read(entry)) for entry in drawn.infolist()]
            for number in range(patches):
                copy, position = divmod(number, len(members))
                written.writestr(renamed(members[position][0], copy), members[position][1])
    return archive


def renamed(member: str, copy: int) -> str:
    """Return the member's name in one of the copies: `CASE/LABEL/CASE_idx5_…`, with another case."""
    case, label, file = member.split("/")
    other = str(int(case) + copy * COPY_IDS)
    return f"{other}/{label}/{other}{file.removeprefix(case)}"


def ingest(root: Path, archive: Path) -> float:
    """Measure the seconds of ingest, into an empty workspace."""
    claim(root, emptied=True)
    return ingested(archive, root)["seconds"]


def split(root: Path, archive: Path) -> float:
    """Measure the seconds of the split, on the ingested store."""
    from histopipe.core.params import read_params
    from histopipe.core.workspace import Workspace
    from histopipe.data.splitting.stage import split as divide

    params = read_params(ROOT / "params.yaml")
    began = time.perf_counter()
    divide("idc", params, Workspace(root))
    return time.perf_counter() - began


def evaluate(root: Path, archive: Path) -> float:
    """Measure the seconds of the evaluation, on the store and the split."""
    from histopipe.core.params import read_params
    from histopipe.core.workspace import Workspace
    from histopipe.data.store import PatchStore
    from histopipe.evaluation import curves, figures, stage, subgroups  # noqa: F401 # loaded before the clock runs
    from histopipe.evaluation.predictions import evaluate_predictions, predictions_table

    params, workspace = read_params(ROOT / "params.yaml"), Workspace(root)
    random = np.random.default_rng(params.seed)
    began = time.perf_counter()
    store = PatchStore.open(workspace.store("idc"))
    table = stage.patches_to_evaluate(store, workspace.split("idc"))
    table.insert(4, "logit", CLASS_GAP * (table["label"] - 0.5) + random.normal(size=len(table)))
    point = stage.operating_point(table, "idc", params, store)
    table = predictions_table(table, point)
    results = evaluate_predictions(table, point, {}, params)
    parts = stage.tables_by_part(table, store, workspace.split("idc"), params)
    folder = root / "graded"
    folder.mkdir(exist_ok=True)
    stage.write_outputs(folder, table, parts, point, results, "none")
    return time.perf_counter() - began


JOBS: dict[str, Callable[[Path, Path], float]] = {"ingest": ingest, "split": split, "grade": evaluate}


def sides(folder: Path, root: Path, sizes: tuple[int, ...]) -> Iterator[tuple[str, Callable[[], dict[str, float]]]]:
    """List the measurements: every job at every size, each in its own process."""
    for size in sizes:
        for job in JOBS:
            command = ("--folder", str(folder), "--root", str(root / str(size)), "--size", str(size), "--side", job)
            yield f"{job} {size}", partial(run_side, "benchmarks.scaling", *command)


def summed_up(measurements: Measurements, sizes: tuple[int, ...]) -> dict[str, dict[str, Any]]:
    """Summarise by job: microseconds per patch and peak memory of each size, and how both grow."""
    answer: dict[str, dict[str, Any]] = {}
    for job in JOBS:
        measured = [measurements[f"{job} {size}"] for size in sizes]
        costs = [result["seconds"] / size * 1e6 for result, size in zip(measured, sizes, strict=True)]
        added = (measured[-1]["peak_gib"] - measured[0]["peak_gib"]) * 2**20 / (sizes[-1] - sizes[0])
        answer[job] = {
            "seconds": [result["seconds"] for result in measured],
            "microseconds_per_patch": [round(cost, 2) for cost in costs],
            "peak_gib": [result["peak_gib"] for result in measured],
            "kb_per_further_patch": round(added, 2),
            "largest": round(costs[-1], 2),
            "cheapest_smaller": round(min(costs[:-1]), 2),
            "ratio": round(min(costs[:-1]) / costs[-1], 2),
        }
    return answer


@click.command()
@click.option("--size", "sizes", multiple=True, type=int, default=(25_000, 100_000, 277_524), show_default=True)
@click.option("--rounds", default=5, show_default=True, help="How often each is measured.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path(tempfile.gettempdir()) / "histopipe-benchmarks")
@click.option("--root", type=click.Path(path_type=Path), hidden=True)
@click.option("--side", type=click.Choice(list(JOBS)), hidden=True)
def main(sizes: tuple[int, ...], rounds: int, folder: Path, root: Path | None, side: str | None) -> None:
    """Measure every size; the last line is JSON and holds `ratio`."""
    folder.mkdir(parents=True, exist_ok=True)
    folder, sizes = folder.resolve(), tuple(sorted(sizes))
    archives = [repeated_archive(folder, size) for size in sizes]
    if side and root:
        print(json.dumps({"seconds": round(JOBS[side](root, archives[0]), 4)}))
        return
    if len(sizes) < 2:
        raise click.UsageError("give --size at least twice")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        measurements = alternate(dict(sides(folder, Path(scratch), sizes)), rounds)
    jobs = summed_up({name: medians(measured) for name, measured in measurements.items()}, sizes)
    ratio = min(job["ratio"] for job in jobs.values())
    report("scaling", ratio=ratio, patches=sizes, rounds=rounds, **jobs)


if __name__ == "__main__":
    main()
