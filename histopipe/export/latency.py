"""Milliseconds that a batch takes, the file's and Keras' in turn, so that both meet the same machine."""

from __future__ import annotations

import statistics
import time

from histopipe.data.store import Patches
from histopipe.export.record import BatchLatency, Latency
from histopipe.export.source import Grader

BATCHES = (1, 32)
ROUNDS = (5, 50)  # at least and at most
SECONDS = 5.0  # for each size of a batch, unless the fewest rounds take longer


def latency(keras: Grader, file: Grader, patches: Patches, threads: int) -> Latency:
    """Median milliseconds of both for each size of a batch, and the ratio Keras / file.

    Args:
        keras: grades by Keras, on as many threads.
        file: grades by the file.
        patches: as many as the largest batch; fewer stand several times.
        threads: for the record.
    """
    return {"threads": threads, "batches": {str(size): _of_batch(keras, file, patches, size) for size in BATCHES}}


def _of_batch(keras: Grader, file: Grader, patches: Patches, size: int) -> BatchLatency:
    batch = patches.take(range(size), axis=0, mode="wrap")
    took: dict[str, list[float]] = {"keras": [], "file": []}
    for grade in (keras, file):
        grade(batch)  # the first one plans, allocates or traces
    began = time.perf_counter()
    for done in range(ROUNDS[1]):
        if done >= ROUNDS[0] and time.perf_counter() - began > SECONDS:
            break
        for name, grade in (("keras", keras), ("file", file)):
            started = time.perf_counter()
            grade(batch)
            took[name].append(1000 * (time.perf_counter() - started))
    medians = {name: round(statistics.median(values), 3) for name, values in took.items()}
    return {
        "keras_ms": medians["keras"],
        "file_ms": medians["file"],
        "ratio": round(medians["keras"] / medians["file"], 2),
        "rounds": len(took["file"]),
    }
