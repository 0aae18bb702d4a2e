"""Training: histopipe's loop against the tutorial's, and against the same network fed from an array in memory.

Patches per second of one epoch, after one that warms up. The tutorial's is CancerNet by `model.fit` from the directory
generator. The ceiling is our network without augmentation, `fit` on patches that already lie in memory: what input and
augmentation cost is what ours lacks to it. Peak memory is that of the process, mapped pages of the store included.

    python -m benchmarks.training
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click
import yaml

from benchmarks.class_folders import class_folders, drawn_store
from benchmarks.measuring import report, side_options, sides_in_turn
from benchmarks.recipes import run_stage, shipped_params
from benchmarks.tutorial import FLOW, augmenting, tutorial_network
from histopipe.paths import Workspace

PATCHES, TRAINED = 20_000, 1_920
RECIPES = ("cancernet", "histonet")
SIDES = ("tutorial", *(f"{kind}_{recipe}" for recipe in RECIPES for kind in ("ours", "ceiling")))


def prepared(folder: Path) -> Workspace:
    """A workspace whose recipes run in full on some drawn patches."""
    workspace = Workspace(drawn_store(folder, PATCHES).folder.parents[2])
    content = shipped_params() | {"quick": {"max_patches": TRAINED}}
    content["idc"]["source"] = yaml.safe_load(workspace.params.read_text(encoding="utf-8"))["idc"]["source"]
    workspace.params.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    if not workspace.split("idc").exists():
        for stage in (("weights", "cancernet"), ("weights", "histonet"), ("split", "idc")):
            run_stage(workspace.root, *stage)
    return workspace


def tutorial(folder: Path) -> dict[str, float]:
    """The tutorial's loop, on as many patches."""
    files = class_folders(folder, drawn_store(folder, PATCHES))
    batches, network = augmenting().flow_from_directory(files, shuffle=True, **FLOW), tutorial_network()
    steps = TRAINED // int(str(FLOW["batch_size"]))
    return timed(lambda: network.fit(batches, steps_per_epoch=steps, class_weight={0: 1.0, 1: 2.5}, verbose=0), TRAINED)


def ours(folder: Path, recipe: str, in_memory: bool) -> dict[str, float]:
    """Our loop; or, from patches `in_memory`, what the network can do at best."""
    import keras

    from histopipe.params import read_params
    from histopipe.training.kernels import quicker_kernels
    from histopipe.training.loop import _batches, _fit, build_training
    from histopipe.training.plan import plan_training

    workspace = prepared(folder)
    training = plan_training("idc", recipe, read_params(workspace.params), workspace)
    network, trainer = build_training(training)
    batches, size = _batches(training, 0), training.recipe.batch_size
    with quicker_kernels(network):
        if not in_memory:
            return timed(lambda: _fit(trainer, batches, recipe), len(training.train_rows))
        bare = keras.Model(network.input, network.output)
        bare.compile(trainer.optimizer, trainer.loss, weighted_metrics=[], jit_compile=trainer.jit_compile)
        labels = training.store.index["label"].to_numpy()[training.train_rows].astype("float32")[:, None]
        content = (training.store.gather(training.train_rows), labels, 1.0 + labels[:, 0])
        return timed(lambda: bare.fit(from_memory(content, size), verbose=0), len(labels))


def from_memory(content: Any, batch_size: int) -> Any:
    """Batches of arrays by `tf.data`, which isn't tuned: an epoch would now and then wait for the tuner at its end."""
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return tf.data.Dataset.from_tensor_slices(content).batch(batch_size).prefetch(2).with_options(options)


def timed(epoch: Any, patches: int) -> dict[str, float]:
    """Patches per second of the second epoch."""
    epoch()
    began = time.perf_counter()
    epoch()
    return {"patches_per_second": round(patches / (time.perf_counter() - began), 1)}


def measure(side: str, folder: Path) -> dict[str, float]:
    """One side, once."""
    kind, _, recipe = side.partition("_")
    return tutorial(folder) if kind == "tutorial" else ours(folder, recipe, in_memory=kind == "ceiling")


@click.command()
@side_options(SIDES)
def main(rounds: int, folder: Path, side: str | None) -> None:
    """Compare the loops; the last line is JSON and holds `ratio`: CancerNet's speed over the tutorial's."""
    folder.mkdir(parents=True, exist_ok=True)
    if side:
        print(json.dumps(measure(side, folder)))
        return
    class_folders(folder, drawn_store(folder, PATCHES))
    prepared(folder)
    found = sides_in_turn("training", SIDES, rounds, "--folder", str(folder))
    speed = {name: one["patches_per_second"] for name, one in found.items()}
    report(
        "training",
        ratio=round(speed["ours_cancernet"] / speed["tutorial"], 2),
        of_ceiling={name: round(speed[f"ours_{name}"] / speed[f"ceiling_{name}"], 3) for name in RECIPES},
        patches=TRAINED,
        rounds=rounds,
        **found,
    )


if __name__ == "__main__":
    main()
