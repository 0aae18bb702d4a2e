"""The page's last part: what each training was made from, and what it took."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from histopipe.core.training_record import Effort, TrainingRecord
from histopipe.core.workspace import Workspace
from histopipe.reporting.report.reading import known_json

NAMES = {"python": "Python", "histopipe": "histopipe", "keras": "Keras", "tensorflow": "TensorFlow", "numpy": "NumPy"}
NAMES |= {"jax": "JAX", "torch": "PyTorch"}


class TrainedPart(TypedDict):
    """A model's training as the template takes it.

    Attributes:
        name: the recipe's.
        record: of the training; empty where there is none.
        effort: that it took; None where the record doesn't tell.
        lineage: commit and hashes.
        changed: whether files differed from the commit.
        versions: of what was in use, in words.
        weights: what the network started from; None where the record doesn't tell.
    """

    name: str
    record: TrainingRecord
    effort: Effort | dict[str, float]
    lineage: dict[str, str]
    changed: bool
    versions: str
    weights: str | int | None


def training_part(dataset: str, names: Sequence[str], workspace: Workspace) -> list[TrainedPart]:
    """Each model's record (`run.json`) as the template takes it; what a record doesn't say is empty."""
    return [_trained(name, known_json(workspace.training_record(dataset, name))) for name in names]


def _trained(name: str, record: TrainingRecord) -> TrainedPart:
    lineage, versions = record.get("lineage") or {}, record.get("versions") or {}
    return {
        "name": name,
        "record": record,
        "effort": record.get("effort") or {},
        "lineage": lineage,
        "changed": lineage.get("git_dirty") == "true",
        "versions": ", ".join(f"{NAMES.get(key, key)} {value}" for key, value in versions.items()),
        "weights": (record.get("weights") or {}).get("asked"),
    }
