"""Training: histopipe's loop against the tutorial's, and against the same network fed from an array in memory.

Patches per second of an epoch, after one that warms up; the ways take turns, epoch by epoch, in one process for each
recipe, since a machine's mood changes faster than processes start. The tutorial's is CancerNet by `model.fit` from the
directory generator. The ceiling is our network without augmentation, `fit` on patches that already lie in memory: what
input and augmentation cost is what ours lacks to it. Peak memory is that of a process which trains our way alone,
mapped pages of the store included.

    python -m benchmarks.training
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import yaml

from benchmarks.class_folders import class_folders, drawn_store
from benchmarks.measuring import alternate, medians, report, run_side
from benchmarks.recipes import run_stage, shipped_params
from benchmarks.tutorial import FLOW, augmenting, tutorial_network
from histopipe.core.workspace import Workspace

PATCHES, TRAINED = 20_000, 4_800
RECIPES = ("cancernet", "histonet")

Epoch = Callable[[], object]


def prepared(folder: Path) -> Workspace:
    """Make a workspace whose recipes run in full on some drawn patches."""
    workspace = Workspace(drawn_store(folder, PATCHES).folder.parents[2])
    content = shipped_params() | {"quick": {"max_patches": TRAINED}}
    content["idc"]["source"] = yaml.safe_load(workspace.params.read_text(encoding="utf-8"))["idc"]["source"]
    workspace.params.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    if not workspace.split("idc").exists():
        for stage in (("weights", "cancernet"), ("weights", "histonet"), ("split", "idc")):
            run_stage(workspace.root, *stage)
    return workspace


def tutorial(folder: Path) -> Epoch:
    """Return the tutorial's loop, on as many patches."""
    files = class_folders(folder, drawn_store(folder, PATCHES))
    batches, network = augmenting().flow_from_directory(files, shuffle=True, **FLOW), tutorial_network()
    steps = TRAINED // int(str(FLOW["batch_size"]))
    return lambda: network.fit(batches, steps_per_epoch=steps, class_weight={0: 1.0, 1: 2.5}, verbose=0)


def measure(folder: Path, recipe: str, rounds: int, alone: bool) -> dict[str, float]:
    """Measure patches per second of our loop and, unless it runs `alone`, of the others with a recipe, in turn."""
    import keras

    from histopipe.core.params import read_params
    from histopipe.training.kernels import quicker_kernels
    from histopipe.training.loop import _batches, _fit, build_training
    from histopipe.training.plan import plan_training

    workspace = prepared(folder)
    training = plan_training("idc", recipe, read_params(workspace.params), workspace)
    network, trainer = build_training(training)
    batches = _batches(training, 0)
    epochs: dict[str, Epoch] = {"ours": lambda: _fit(trainer, batches, recipe)}
    if not alone:
        bare = keras.Model(network.input, network.output)
        bare.compile(trainer.optimizer, trainer.loss, weighted_metrics=[], jit_compile=trainer.jit_compile)
        kept = from_memory([batches[number] for number in range(len(batches))])
        epochs["ceiling"] = lambda: bare.fit(kept, verbose=0)
        epochs |= {"tutorial": tutorial(folder)} if recipe == "cancernet" else {}
    with quicker_kernels(network):
        for epoch in epochs.values():
            epoch()
        sides = {name: partial(timed, epoch) for name, epoch in epochs.items()}
        return {name: medians(runs)["speed"] for name, runs in alternate(sides, rounds).items()}


def from_memory(batches: list[Any]) -> Any:
    """Wrap batches in memory by `tf.data`."""
    import numpy as np
    import tensorflow as tf

    from histopipe.training.loading import AHEAD, untuned

    content = tuple(np.stack(parts) for parts in zip(*batches, strict=True))
    return untuned(tf.data.Dataset.from_tensor_slices(content).prefetch(AHEAD))


def timed(epoch: Epoch) -> dict[str, float]:
    """Measure patches per second of an epoch."""
    began = time.perf_counter()
    epoch()
    return {"speed": round(TRAINED / (time.perf_counter() - began), 1)}


@click.command()
@click.option("--rounds", default=5, show_default=True, help="Epochs of each way.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path(tempfile.gettempdir()) / "histopipe-benchmarks")
@click.option("--recipe", type=click.Choice(RECIPES), hidden=True)
@click.option("--alone", is_flag=True, hidden=True)
def main(rounds: int, folder: Path, recipe: str | None, alone: bool) -> None:
    """Compare the loops; the last line is JSON and holds `ratio`: CancerNet's speed over the tutorial's."""
    folder.mkdir(parents=True, exist_ok=True)
    if recipe:
        print(json.dumps(measure(folder, recipe, rounds, alone)))
        return
    class_folders(folder, drawn_store(folder, PATCHES))
    prepared(folder)
    command = ("benchmarks.training", "--folder", str(folder), "--rounds", str(rounds), "--recipe")
    results = {name: run_side(*command, name) for name in RECIPES}
    for name, result in results.items():
        result["peak_gib"] = run_side(*command, name, "--rounds", "1", "--alone")["peak_gib"]
        result["of_ceiling"] = round(result["ours"] / result["ceiling"], 3)
    ratio = round(results["cancernet"]["ours"] / results["cancernet"]["tutorial"], 2)
    report("training", ratio=ratio, patches=TRAINED, rounds=rounds, unit="patches per second", **results)


if __name__ == "__main__":
    main()
