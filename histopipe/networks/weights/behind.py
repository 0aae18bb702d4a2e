"""The cases behind weights: those that a training saw, and the trainings that it started from."""

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
class Behind:
    """What is known of the trainings behind weights.

    Attributes:
        cases: that they trained or validated on.
        unknown: whether one of them started from weights of which nobody knows the cases.
        samples: of each training that recorded them the smallest digests of its patches' pixels, separated by spaces:
            they tell a case under another id.
    """

    cases: Cases
    unknown: bool
    samples: tuple[str, ...] = ()


def cases_seen(record: TrainingRecord) -> Cases:
    """The cases, by data set, that a training's record lists, its own and those behind the weights it started from."""
    seen = {name: list(cases) for name, cases in record.get("seen_before", {}).items()}
    own = {str(case) for part in ("train_cases", "validation_cases") for case in record[part]}
    return seen | {record["dataset"]: sorted(own | set(seen.get(record["dataset"], [])))}


def behind(record: TrainingRecord) -> Behind:
    """Read a training's record.

    Raises:
        KeyError: it doesn't say what it trained on.
    """
    return Behind(cases_seen(record), starts_from_unknown(record), pixels_seen(record))


def pixels_seen(record: TrainingRecord) -> tuple[str, ...]:
    """The digests, see `Behind.samples`, of a training's patches and of those behind the weights it started from."""
    described = record.get("data")
    own = described.get("digests") if isinstance(described, dict) else None
    return tuple(map(str, [*(record.get("samples_before") or []), *([own] if own else [])]))


def starts_from_unknown(record: TrainingRecord) -> bool:
    """Whether a training started from weights of which nobody knows all cases, also by a record of earlier versions."""
    if "unknown_before" in record:
        return bool(record["unknown_before"])
    weights = record.get("weights")
    asked = weights.get("asked", RANDOM) if isinstance(weights, dict) else RANDOM
    unlisted = asked not in (RANDOM, IMAGENET) and not record.get("seen_before")
    return unlisted or leaky_state(record.get("leaky")) == UNKNOWN


def cases_beside(file: Path) -> Behind | None:
    """What the record beside a network's file tells, as in `models/D/A`; None where it has none."""
    record = file.parent / TRAINING_RECORD
    if file.name != NETWORK or not record.is_file():
        return None
    try:
        return behind(read_training_record(record))
    except (HistopipeError, KeyError, TypeError, ValueError, AttributeError):
        return None
