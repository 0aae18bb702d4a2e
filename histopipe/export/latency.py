"""Latency of a file and of Keras, measured in turn so that both run under the same load."""

from __future__ import annotations

import statistics
import time

from histopipe.data.store import Patches
from histopipe.export.record import BatchLatency, Latency
from histopipe.export.source import PredictFunction

BATCHES = (1, 32)
ROUNDS = (5, 50)  # at least and at most
SECONDS = 5.0  # per batch size, unless the fewest rounds take longer


def measure_latency(keras: PredictFunction, file: PredictFunction, patches: Patches, threads: int) -> Latency:
    """Measure the median milliseconds of both per batch, by batch size, and the ratio Keras / file.

    Args:
        keras: predicts with Keras, on as many threads.
        file: predicts with the file.
        patches: as many as the largest batch; fewer are repeated.
        threads: the number of threads, for the record.
    """
    return {"threads": threads, "batches": {str(size): _measure_batch(keras, file, patches, size) for size in BATCHES}}


def _measure_batch(keras: PredictFunction, file: PredictFunction, patches: Patches, size: int) -> BatchLatency:
    batch = patches.take(range(size), axis=0, mode="wrap")
    took: dict[str, list[float]] = {"keras": [], "file": []}
    for predict in (keras, file):
        predict(batch)  # the first call plans, allocates or traces
    began = time.perf_counter()
    for done in range(ROUNDS[1]):
        if done >= ROUNDS[0] and time.perf_counter() - began > SECONDS:
            break
        for name, predict in (("keras", keras), ("file", file)):
            started = time.perf_counter()
            predict(batch)
            took[name].append(1000 * (time.perf_counter() - started))
    medians = {name: round(statistics.median(values), 3) for name, values in took.items()}
    return {
        "keras_ms": medians["keras"],
        "file_ms": medians["file"],
        "ratio": round(medians["keras"] / medians["file"], 2),
        "rounds": len(took["file"]),
    }
