"""The effort of a training: time, speed and memory."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping, Sequence

from histopipe.core.training_record import Effort


def effort(history: Sequence[Mapping[str, float]]) -> Effort:
    """Compute seconds, patches per second and peak memory of the training that just ended.

    Args:
        history: one row per epoch, with its `seconds`; epochs of a killed process count too.

    Returns:
        `seconds` of training without validation, `patches_per_second` over all of them (None where a history doesn't
        state it, as that of a fitted classifier), and `peak_memory_mb`: this process' peak use of main memory, in 10^6
        bytes, without GPU memory.
    """
    seconds = sum(row["seconds"] for row in history)
    counted = all("patches_per_second" in row for row in history) and seconds > 0
    patches = sum(row["patches_per_second"] * row["seconds"] for row in history) if counted else 0.0
    return {
        "seconds": round(seconds, 3),
        "patches_per_second": round(patches / seconds, 1) if counted else None,
        "peak_memory_mb": round(peak_memory() / 1e6, 1),
    }


def peak_memory() -> int:
    """Return this process' peak use of main memory, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux kibibytes
