"""The cases that weights have seen: in a training, and in the trainings that it started from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from histopipe.core.errors import HistopipeError
from histopipe.core.training_record import TrainingRecord, read_training_record
from histopipe.core.workspace import TRAINING_RECORD
from histopipe.data.leakage import UNKNOWN, leaky_state
from histopipe.networks.weights.record import IMAGENET, RANDOM

NETWORK = "model.keras"

Cases = dict[str, list[str]]  # ids by data set


@dataclass(frozen=True)
class SeenData:
    """The data that the trainings behind a network's weights have seen, as far as it is recorded.

    Attributes:
        cases: cases that they trained or validated on, by data set.
        unknown: whether one of them started from weights whose cases aren't recorded.
        samples: for each training that recorded them, the smallest digests of its patches' pixels, separated by spaces;
            they identify a case under another id.
    """

    cases: Cases
    unknown: bool
    samples: tuple[str, ...] = ()


def cases_seen(record: TrainingRecord) -> Cases:
    """List the cases that a training has seen, by data set: its own and those behind the weights it started from."""
    seen = {name: list(cases) for name, cases in record.get("seen_before", {}).items()}
    own = {str(case) for part in ("train_cases", "validation_cases") for case in record[part]}
    return seen | {record["dataset"]: sorted(own | set(seen.get(record["dataset"], [])))}


def read_seen_data(record: TrainingRecord) -> SeenData:
    """Read from a training's record which data it and the trainings before it have seen.

    Raises:
        KeyError: the record doesn't state its cases.
    """
    return SeenData(cases_seen(record), starts_from_unknown(record), pixels_seen(record))


def pixels_seen(record: TrainingRecord) -> tuple[str, ...]:
    """List the digests (`SeenData.samples`) of a training's patches and of those behind the weights it started from."""
    data_record = record.get("data")
    own = data_record.get("digests") if isinstance(data_record, dict) else None
    return tuple(map(str, [*(record.get("samples_before") or []), *([own] if own else [])]))


def starts_from_unknown(record: TrainingRecord) -> bool:
    """Return whether a training started from weights whose cases aren't all recorded, also by older records."""
    if "unknown_before" in record:
        return bool(record["unknown_before"])
    weights = record.get("weights")
    choice = weights.get("asked", RANDOM) if isinstance(weights, dict) else RANDOM
    unlisted = choice not in (RANDOM, IMAGENET) and not record.get("seen_before")
    return unlisted or leaky_state(record.get("leaky")) == UNKNOWN


def seen_data_of_file(file: Path) -> SeenData | None:
    """Read the record next to a network's file, as in `models/DATASET/RECIPE`; None where there is none."""
    record = file.parent / TRAINING_RECORD
    if file.name != NETWORK or not record.is_file():
        return None
    try:
        return read_seen_data(read_training_record(record))
    except (HistopipeError, KeyError, TypeError, ValueError, AttributeError):
        return None
