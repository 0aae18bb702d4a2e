"""Frozen published features against the same network's frozen random ones, by case.

Both sides are the recipe `features` on the same patches, splits and candidates; only the weights differ. Threshold and
calibration come from validation, the intervals from resampling the test cases.

    python -m benchmarks.pretrained --weights ../shared/data/weights/squeezenet_…_notop.h5 \
        --idc ../shared/data/idc-sample.zip --malaria ../shared/data/malaria-sample.zip
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import yaml

from benchmarks.measuring import report
from histopipe.core.params import Params, parse_params
from histopipe.core.workspace import Workspace
from histopipe.evaluation.intervals import Estimate

ROOT = Path(__file__).parents[1]
METRICS = ("roc_auc", "balanced_accuracy")
RANDOM = "random"


def measure(
    archive: Path, dataset: str, weights: Path, seeds: list[int], image_size: int, workspace: Workspace
) -> dict[str, Any]:
    """Measure both sides on one data set with every seed: metrics of the test cases with their intervals."""
    from histopipe.ingest.stage import ingest

    results: dict[str, Any] = {"published": {}, RANDOM: {}}
    raw = workspace.raw(dataset)
    if not raw.exists():
        raw.mkdir(parents=True)
        (raw / archive.name).symlink_to(archive.resolve())
        ingest(dataset, recipe_with(dataset, RANDOM, seeds[0], image_size), workspace)
    for seed in seeds:
        for side, choice in (("published", str(weights.resolve())), (RANDOM, RANDOM)):
            params = recipe_with(dataset, choice, seed, image_size)
            results[side][seed] = fit_and_evaluate(dataset, params, workspace)
            print(f"{dataset} {image_size} px, seed {seed}, {side}: {results[side][seed]}", file=sys.stderr, flush=True)
    return results | {"error_ratio": error_ratio(results)}


def recipe_with(dataset: str, weights: str, seed: int, image_size: int) -> Params:
    """Return the checkout's parameters with one data set, uncapped, and the recipe's weights, seed and image size."""
    content = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    content |= {"datasets": [dataset], "architectures": ["features"], "seed": seed, "quick": None}
    content["recipes"]["features"]["weights"] = weights
    content["recipes"]["features"]["model"]["image_size"] = image_size
    return parse_params(content)


def fit_and_evaluate(dataset: str, params: Params, workspace: Workspace) -> dict[str, Any]:
    """Split, fit and evaluate as the stages do."""
    from histopipe.data.splitting.stage import split
    from histopipe.data.store import PatchStore
    from histopipe.evaluation.predictions import evaluate_predictions, predictions_table
    from histopipe.evaluation.stage import operating_point, predict_splits
    from histopipe.networks.logits import load_network
    from histopipe.networks.weights.stage import fetch_weights
    from histopipe.training.stage import train

    split(dataset, params, workspace)
    fetch_weights("features", params, workspace)
    record = train(dataset, "features", params, workspace)
    store = PatchStore.open(workspace.store(dataset))
    network = load_network(workspace.model(dataset, "features") / "model.keras")
    logits = predict_splits(network, store, workspace.split(dataset), dataset)
    point = operating_point(logits, dataset, params, store)
    evaluation = evaluate_predictions(predictions_table(logits, point), point, record, params)
    chosen = {key: record["classifier"][key] for key in ("layer", "c")}
    return {**{name: rounded(evaluation["test"][name]) for name in METRICS}, **chosen, "cases": evaluation["cases"]}


def rounded(metric: Estimate) -> list[float | None]:
    """Return value, lower and upper end of the interval."""
    return [None if (end := metric[name]) is None else round(end, 4) for name in ("value", "low", "high")]


def error_ratio(results: Mapping[str, Any]) -> float:
    """Compute how many times larger 1 - AUC is with random features, in the mean over seeds."""
    missing = {side: statistics.mean(1 - run["roc_auc"][0] for run in results[side].values()) for side in results}
    return round(missing[RANDOM] / missing["published"], 3)


@click.command()
@click.option("--weights", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True)
@click.option("--idc", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--malaria", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--seeds", default=3, show_default=True, help="Splits, and random networks, to try.")
@click.option("--image-size", default=(48, 112), show_default=True, multiple=True, help="Sides in pixels.")
def main(weights: Path, idc: Path | None, malaria: Path | None, seeds: int, image_size: tuple[int, ...]) -> None:
    """Compare both kinds of features; the last line is JSON and holds `ratio`."""
    archives = {"idc": idc, "malaria": malaria}
    with tempfile.TemporaryDirectory() as scratch:  # one for all: MLflow keeps its database open
        workspace = Workspace(Path(scratch))
        results = {
            f"{dataset} {side} px": measure(archive, dataset, weights, list(range(1, seeds + 1)), side, workspace)
            for dataset, archive in archives.items()
            if archive
            for side in image_size
        }
    ratio = (
        statistics.mean(result["error_ratio"] for result in results.values())
        if results
        else "neither --idc nor --malaria"
    )
    report("pretrained", ratio=ratio, seeds=seeds, results=results)


if __name__ == "__main__":
    main()
