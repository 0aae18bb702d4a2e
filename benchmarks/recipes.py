"""Recipes on real data, evaluated by case: each trained as in `params.yaml`, and the tutorial's own training loop.

For every seed the cases are divided again and every recipe is trained and evaluated by the pipeline's own stages. In
the same run, on the same training patches, the tutorial's way is timed: CancerNet by `model.fit` from Keras' directory
generator, for a few epochs from which the rest is extrapolated. The ratio is the seconds of the tutorial's 40 epochs
over those of the last recipe named. Every two models of a seed are compared case by case, also those whose patches are
weighed against their neighbours (`neighbours`: their own ROC AUC). Finished results of a killed run are kept in
`--folder` and reused.

python -m benchmarks.recipes --source ../shared/data/idc-sample.zip --seed 1 --seed 2 --seed 3
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import yaml
from numpy.typing import NDArray

from benchmarks.checkouts import claim
from benchmarks.measuring import report
from benchmarks.tutorial import EPOCHS as TUTORIAL_EPOCHS
from benchmarks.tutorial import FLOW, augmenting, scaling, tutorial_network
from histopipe.reporting.comparison.neighbours import NEIGHBOURS

ROOT = Path(__file__).parents[1]
SHOWN = ("roc_auc", "balanced_accuracy", "f1", "accuracy")


def prepare(
    folder: Path,
    dataset: str,
    source: Path,
    seed: int,
    precision: str,
    epochs: int | None,
    excluded: Sequence[str] = (),
) -> None:
    """Make a workspace with the data ingested and the cases divided by `seed`, except those `excluded`."""
    content = shipped_params()
    content |= {"quick": {"max_epochs": epochs} if epochs else None, "seed": seed}
    content["train"]["precision"] = precision
    content["compare"]["neighbourhood"] = True
    content[dataset]["exclude_cases"] = list(excluded)
    ingest_into(folder, dataset, source, content)
    run_stage(folder, "split", dataset)


def shipped_params() -> dict[str, Any]:
    """Return the content of the project's `params.yaml`."""
    return dict(yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8")))


def ingest_into(folder: Path, dataset: str, source: Path, content: dict[str, Any]) -> None:
    """Make a workspace with one ingested data set, under the parameters `content`."""
    content["datasets"] = [dataset]
    content[dataset]["source"] = str(source.resolve())
    claim(folder)
    (folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    (folder / "requirements.lock").write_bytes((ROOT / "requirements.lock").read_bytes())
    for stage in ("locate", "fetch", "ingest"):
        run_stage(folder, stage, dataset)


def run_stage(folder: Path, *arguments: str) -> float:
    """Run a stage's command in the workspace; return its seconds."""
    began = time.perf_counter()
    searched = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": searched, "MLFLOW_DISABLE_TELEMETRY": "true"}
    subprocess.run(
        [sys.executable, "-m", "histopipe", *arguments], cwd=folder, env=environment, check=True, stdout=sys.stderr
    )
    return round(time.perf_counter() - began, 1)


def remembered(folder: Path, name: str, settings: object, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the result of `measure`, from an earlier run's file if that has the same settings."""
    path = folder / "measured" / f"{name}.json"
    settings = json.loads(json.dumps(settings))
    if path.exists() and (earlier := json.loads(path.read_text(encoding="utf-8")))["settings"] == settings:
        return dict(earlier["found"])
    result = measure()
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"settings": settings, "found": result}), encoding="utf-8")
    return result


def settings_of(folder: Path, recipe: str) -> list[Any]:
    """Return the settings that decide a training's result, besides the code."""
    content = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    return [content["recipes"][recipe], content["train"], content["quick"]]


def trained(folder: Path, dataset: str, recipe: str) -> dict[str, Any]:
    """Train and evaluate one recipe; return the seconds of the `train` stage and its metrics with intervals."""
    run_stage(folder, "weights", recipe)
    seconds = run_stage(folder, "train", dataset, recipe)
    run_stage(folder, "evaluate", dataset, recipe)
    metrics = json.loads((folder / "evaluations" / dataset / recipe / "metrics.json").read_text(encoding="utf-8"))
    record = json.loads((folder / "models" / dataset / recipe / "run.json").read_text(encoding="utf-8"))
    shown = {name: _rounded(metrics["test"][name]) for name in SHOWN}
    return {"seconds": seconds, "epochs": record["epochs"], "cases": metrics["cases"], **shown}


def compared(folder: Path, dataset: str) -> dict[str, Any]:
    """Run `compare` on the evaluated recipes, and extract its results."""
    run_stage(folder, "compare", dataset)
    return comparison_of(json.loads((folder / "reports" / dataset / "comparison.json").read_text(encoding="utf-8")))


def comparison_of(content: dict[str, Any]) -> dict[str, Any]:
    """Extract the results of a comparison that aren't in a recipe's own result.

    Args:
        content: content of `comparison.json`.

    Returns:
        `neighbours`: by recipe, the ROC AUC with patches weighed against their neighbours, and its interval. `pairs`:
        of every two models the difference in ROC AUC with its interval, the p-value and DeLong's.
    """
    rows = {row["architecture"]: _rounded(row["test"]["roc_auc"]) for row in content["ranking"]}
    pairs = [
        {
            "first": pair["first"],
            "second": pair["second"],
            "difference": _rounded(pair["differences"]["roc_auc"]),
            "p": pair["differences"]["roc_auc"]["p"],
            "p_delong": pair["p_delong"],
        }
        for pair in content["pairs"]
    ]
    neighbours = {name.removesuffix(NEIGHBOURS): area for name, area in rows.items() if name.endswith(NEIGHBOURS)}
    return {"neighbours": neighbours, "pairs": pairs}


def _rounded(measured: dict[str, float | None]) -> list[float | None]:
    """Return value and interval: [value, low, high]."""
    return [None if measured[end] is None else round(float(measured[end] or 0), 4) for end in ("value", "low", "high")]


def tutorial(folder: Path, dataset: str, epochs: int) -> dict[str, float]:
    """Measure the seconds of the tutorial's loop: the first epoch, and the median of the following ones."""
    class_folders = folder / "tutorial"
    weights = write_class_folders(folder, dataset, class_folders)
    augmented = augmenting().flow_from_directory(class_folders / "train", shuffle=True, **FLOW)
    plain = scaling().flow_from_directory(class_folders / "validation", shuffle=False, **FLOW)
    network = tutorial_network()
    seconds = []
    for _ in range(epochs):
        began = time.perf_counter()
        network.fit(augmented, validation_data=plain, class_weight=weights, epochs=1, verbose=0)
        seconds.append(time.perf_counter() - began)
    return {"first": seconds[0], "epoch": statistics.median(seconds[1:])}


def write_class_folders(folder: Path, dataset: str, target: Path) -> dict[int, float]:
    """Write training and validation patches as PNG files by class; return the tutorial's class weights."""
    import imagecodecs
    import numpy as np

    from histopipe.core.workspace import Workspace
    from histopipe.data.splitting.membership import split_of_patches
    from histopipe.data.store import PatchStore

    workspace = Workspace(folder)
    store = PatchStore.open(workspace.store(dataset))
    splits = split_of_patches(workspace.split(dataset), store.index).to_numpy()
    labels = store.index["label"].to_numpy()
    for row in np.flatnonzero((splits == "train") | (splits == "validation")):
        path = target / splits[row] / str(labels[row]) / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        patch: NDArray[np.uint8] = store.gather(np.array([row]))[0]
        path.write_bytes(imagecodecs.png_encode(patch))
    counts = np.bincount(labels[splits == "train"], minlength=2)
    return {label: float(counts.max() / counts[label]) for label in (0, 1)}


def one_seed(folder: Path, dataset: str, recipes: tuple[str, ...], epochs: int) -> dict[str, Any]:
    """Time the tutorial's loop, then train every recipe."""
    results: dict[str, Any] = {}
    if epochs:
        results["tutorial"] = remembered(folder, "tutorial", epochs, lambda: tutorial_seconds(folder, dataset, epochs))
        print(json.dumps(results), file=sys.stderr, flush=True)
    for recipe in recipes:
        settings = settings_of(folder, recipe)
        results[recipe] = remembered(folder, recipe, settings, partial(trained, folder, dataset, recipe))
        print(json.dumps({recipe: results[recipe]}), file=sys.stderr, flush=True)
    return results | compared(folder, dataset)


def tutorial_seconds(folder: Path, dataset: str, epochs: int) -> dict[str, Any]:
    """Extrapolate the tutorial's 40 epochs from a few of them run in their own process."""
    command = [sys.executable, "-m", "benchmarks.recipes", "--side", str(folder), "--dataset", dataset]
    answer = subprocess.run(
        [*command, "--sampled-epochs", str(epochs)], cwd=ROOT, check=True, capture_output=True, text=True
    )
    timed = json.loads(answer.stdout.splitlines()[-1])
    total = timed["first"] + (TUTORIAL_EPOCHS - 1) * timed["epoch"]
    return {"seconds": round(total, 1), "sampled_epochs": epochs, "epoch": round(timed["epoch"], 2)}


@click.command()
@click.option("--source", type=click.Path(exists=True, path_type=Path), help="The data set's archive.")
@click.option("--dataset", default="idc", show_default=True)
@click.option("--recipe", "recipes", multiple=True, default=("cancernet", "histonet"), show_default=True)
@click.option("--seed", "seeds", multiple=True, type=int, default=(1, 2, 3), show_default=True)
@click.option("--sampled-epochs", default=3, show_default=True, help="Of the tutorial's loop; 0 leaves it out.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path(tempfile.gettempdir()) / "histopipe-recipes")
@click.option("--precision", type=click.Choice(["auto", "float32", "bfloat16"]), default="auto", show_default=True)
@click.option("--max-epochs", type=int, help="Cap every recipe, where time is short.")
@click.option("--side", type=click.Path(path_type=Path), hidden=True)
def main(
    source: Path,
    dataset: str,
    recipes: tuple[str, ...],
    seeds: tuple[int, ...],
    sampled_epochs: int,
    folder: Path,
    precision: str,
    max_epochs: int | None,
    side: Path | None,
) -> None:
    """Train the recipes for every seed; the last line is JSON and holds `ratio`."""
    if side:
        print(json.dumps(tutorial(side, dataset, sampled_epochs)))
        return
    results = {}
    for seed in seeds:
        workspace = folder / f"{dataset}-{seed}"
        prepare(workspace, dataset, source, seed, precision, max_epochs)
        results[str(seed)] = one_seed(workspace, dataset, recipes, sampled_epochs)
    timed = [run["tutorial"]["seconds"] / run[recipes[-1]]["seconds"] for run in results.values() if "tutorial" in run]
    ratio = round(statistics.median(timed), 2) if timed else "the tutorial's loop was left out (--sampled-epochs 0)"
    report(
        "recipes",
        ratio=ratio,
        dataset=dataset,
        source=source.name,
        precision=precision,
        max_epochs=max_epochs,
        seeds=results,
    )


if __name__ == "__main__":
    main()
