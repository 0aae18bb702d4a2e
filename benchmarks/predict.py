"""Predicting many patches with CancerNet: a compiled network, fed from the store, against Keras' own from a generator.

Each side is timed from a loaded network to all probabilities; ours includes compiling it, the others no tracing. The
generator's way is timed on fewer files and extrapolated. Our probabilities are compared with Keras' own on the same
patches; the network hasn't learnt anything, but its batch norms know the patches, so that probabilities differ.

    python -m benchmarks.predict
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.class_folders import class_folders, drawn_store
from benchmarks.measuring import report, side_options, sides_in_turn
from benchmarks.tutorial import FLOW, scaling
from histopipe.data.store import PatchStore

PATCHES, SAMPLED = 100_000, 20_000
SIDES = ("float32", "bfloat16", "generator", "keras")


def network(store: PatchStore) -> Any:
    """Build CancerNet, untrained, since training doesn't change its speed."""
    import keras

    from histopipe.networks.architectures import build
    from histopipe.networks.prediction import for_prediction
    from histopipe.training.batch_norm import refresh_batch_norm

    keras.utils.set_random_seed(1)
    built = for_prediction(build("cancernet", image_size=48))
    refresh_batch_norm(built, store, np.arange(1000), batch_size=100)
    return built


def compiled(folder: Path, precision: Any) -> dict[str, float]:
    """Measure our way."""
    from histopipe.networks.openvino import CompiledNetwork
    from histopipe.networks.prediction import logit_network, predict_logits, row_logits

    store = drawn_store(folder, SAMPLED)
    rows, logits = np.tile(np.arange(SAMPLED), PATCHES // SAMPLED), logit_network(network(store))
    began = time.perf_counter()
    logits_found = row_logits(CompiledNetwork(logits, store.patch_size, precision), store, rows)
    seconds = time.perf_counter() - began
    expected = predict_logits(logits, store, rows[:2000])
    apart = np.abs(1 / (1 + np.exp(-logits_found[:2000])) - 1 / (1 + np.exp(-expected))).max()
    return {
        "seconds": seconds,
        "patches_per_second": len(rows) / seconds,
        "apart_from_keras_millionths": float(1e6 * apart),
        "spread_of_probabilities": float(np.std(1 / (1 + np.exp(-expected)))),
    }


def keras_from_store(folder: Path) -> dict[str, float]:
    """Measure Keras' own prediction, fed from the store."""
    from histopipe.networks.prediction import BATCH_SIZE, logit_network, predict_logits

    store = drawn_store(folder, SAMPLED)
    logits = logit_network(network(store))
    predict_logits(logits, store, np.arange(BATCH_SIZE))  # otherwise tracing would be extrapolated, too
    began = time.perf_counter()
    predict_logits(logits, store, np.arange(len(store.index)))
    return extrapolated(time.perf_counter() - began)


def generator(folder: Path) -> dict[str, float]:
    """Measure the tutorial's way."""
    store = drawn_store(folder, SAMPLED)
    files, classifier = class_folders(folder, store), network(store)
    batches = scaling().flow_from_directory(files, shuffle=False, **FLOW)
    classifier.predict_on_batch(batches[0][0])  # otherwise tracing would be extrapolated, too
    began = time.perf_counter()
    classifier.predict(batches, verbose=0)
    return extrapolated(time.perf_counter() - began)


def extrapolated(seconds: float) -> dict[str, float]:
    """Extrapolate from the sample to all patches."""
    return {"seconds": seconds * PATCHES / SAMPLED, "patches_per_second": SAMPLED / seconds}


def measure(side: str, folder: Path) -> dict[str, float]:
    """Measure one side once."""
    if side == "generator":
        return generator(folder)
    return keras_from_store(folder) if side == "keras" else compiled(folder, side)


@click.command()
@side_options(SIDES)
def main(rounds: int, folder: Path, side: str | None) -> None:
    """Compare the ways; the last line is JSON and holds `ratio`: how many times sooner float32 is done."""
    folder.mkdir(parents=True, exist_ok=True)
    if side:
        print(json.dumps(measure(side, folder)))
        return
    class_folders(folder, drawn_store(folder, SAMPLED))
    results = sides_in_turn("predict", SIDES, rounds, "--folder", str(folder))
    seconds = {name: result["seconds"] for name, result in results.items()}
    report(
        "predict",
        ratio=round(seconds["generator"] / seconds["float32"], 2),
        ratio_bfloat16=round(seconds["generator"] / seconds["bfloat16"], 2),
        ratio_keras=round(seconds["keras"] / seconds["float32"], 2),
        patches=PATCHES,
        sampled=SAMPLED,
        rounds=rounds,
        **results,
    )


if __name__ == "__main__":
    main()
