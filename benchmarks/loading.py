"""Augmented float batches per second: histopipe's store and warp against Keras' directory generator and `tf.data`.

Ours: a random batch gathered from the mapped store, augmented as CancerNet's recipe has it by one fused warp, scaled to
floats. The tutorial's: `ImageDataGenerator.flow_from_directory` with the same ranges. `tf.data` reads the same files in
parallel and augments them with Keras' stock layers. HistoNet's augmentation (all orientations and stain) is timed too.

    python -m benchmarks.loading
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.class_folders import class_folders, drawn_store
from benchmarks.measuring import report, side_options, sides_in_turn
from benchmarks.tutorial import FLOW, augmenting

PATCHES = 20_000
SIDES = ("ours", "ours_stain", "generator", "tf_data")
SECONDS = 6.0  # of measuring, after a warm-up
BATCH = 32


def per_second(batches: Iterator[Any]) -> float:
    """Measure the patches per second that `batches` delivers; each is taken as an array of floats."""
    for _ in range(20):
        next(batches)
    began, patches = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        patches += len(np.asarray(next(batches)))
    return patches / (time.perf_counter() - began)


def ours(folder: Path, recipe: str) -> Iterator[Any]:
    """Yield batches as a training step gets them, with the augmentation of a recipe."""
    import keras

    from benchmarks.recipes import ROOT
    from histopipe.core.params import read_params
    from histopipe.networks.architectures.blocks import patch_input
    from histopipe.networks.prediction import for_prediction
    from histopipe.training.augmentation import augment

    store, params = drawn_store(folder, PATCHES), read_params(ROOT / "params.yaml")
    inputs = patch_input()
    warped = augment(inputs, params.recipe(recipe).augmentation, seed=1)
    network = for_prediction(keras.Model(inputs, keras.ops.cast(warped, "float32") / 255.0))
    step = compiled(lambda patches: network(patches, training=True))
    order, generator = np.arange(len(store.index)), np.random.default_rng(1)
    while True:
        generator.shuffle(order)
        for start in range(0, len(order) - BATCH, BATCH):
            yield step(store.gather(order[start : start + BATCH]))


def compiled(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Compile a function into one graph of TensorFlow, as a training step is."""
    import tensorflow as tf

    signature = [tf.TensorSpec((None, None, None, 3), tf.uint8)]
    return tf.function(function, input_signature=signature)


def generator(folder: Path) -> Iterator[Any]:
    """Yield the tutorial's batches."""
    files = class_folders(folder, drawn_store(folder, PATCHES))
    batches = augmenting().flow_from_directory(files, shuffle=True, **FLOW)
    while True:
        yield next(batches)[0]


def tf_data(folder: Path) -> Iterator[Any]:
    """Yield files read and decoded by `tf.data` in parallel, augmented by Keras' stock layers."""
    import keras
    import tensorflow as tf

    files = class_folders(folder, drawn_store(folder, PATCHES))
    data = keras.utils.image_dataset_from_directory(files, image_size=(48, 48), batch_size=BATCH, shuffle=True)
    layers = [
        keras.layers.RandomRotation(20 / 360, fill_mode="nearest"),
        keras.layers.RandomTranslation(0.1, 0.1, fill_mode="nearest"),
        keras.layers.RandomZoom(0.05, 0.05, fill_mode="nearest"),
        keras.layers.RandomFlip(),
    ]

    def augmented(images: Any, labels: Any) -> Any:
        for layer in layers:
            images = layer(images, training=True)
        return images / 255.0

    yield from data.map(augmented, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE).repeat()


def measure(side: str, folder: Path) -> dict[str, float]:
    """Measure patches per second of one side."""
    sides = {
        "ours": lambda: ours(folder, "cancernet"),
        "ours_stain": lambda: ours(folder, "histonet"),
        "generator": lambda: generator(folder),
        "tf_data": lambda: tf_data(folder),
    }
    return {"patches_per_second": round(per_second(iter(sides[side]())), 1)}


@click.command()
@side_options(SIDES)
def main(rounds: int, folder: Path, side: str | None) -> None:
    """Compare the ways of loading; the last line is JSON and holds `ratio`: ours over the generator's speed."""
    folder.mkdir(parents=True, exist_ok=True)
    if side:
        print(json.dumps(measure(side, folder)))
        return
    class_folders(folder, drawn_store(folder, PATCHES))
    results = sides_in_turn("loading", SIDES, rounds, "--folder", str(folder))
    speed = {name: result["patches_per_second"] for name, result in results.items()}
    report(
        "loading",
        ratio=round(speed["ours"] / speed["generator"], 2),
        ratio_stain=round(speed["ours_stain"] / speed["generator"], 2),
        ratio_tf_data=round(speed["ours"] / speed["tf_data"], 2),
        patches=PATCHES,
        batch=BATCH,
        rounds=rounds,
        **results,
    )


if __name__ == "__main__":
    main()
