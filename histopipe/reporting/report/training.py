"""The report's last part: lineage and cost of each training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from histopipe.core.training_record import Effort, TrainingRecord
from histopipe.core.workspace import Workspace
from histopipe.reporting.report.reading import read_json_if_present

NAMES = {"python": "Python", "histopipe": "histopipe", "keras": "Keras", "tensorflow": "TensorFlow", "numpy": "NumPy"}
NAMES |= {"jax": "JAX", "torch": "PyTorch"}


class TrainingPart(TypedDict):
    """A model's training as the template uses it.

    Attributes:
        name: name of the recipe.
        record: record of the training; empty if there is none.
        effort: time and memory; empty if not recorded.
        lineage: commit and hashes.
        changed: whether files differed from the commit.
        versions: versions of the libraries, in words.
        weights: weights from which the training started; None if not recorded.
    """

    name: str
    record: TrainingRecord
    effort: Effort | dict[str, float]
    lineage: dict[str, str]
    changed: bool
    versions: str
    weights: str | int | None


def training_part(dataset: str, names: Sequence[str], workspace: Workspace) -> list[TrainingPart]:
    """Collect what the template shows of each model's record (`run.json`); what isn't recorded is empty."""
    return [_part(name, read_json_if_present(workspace.training_record(dataset, name))) for name in names]


def _part(name: str, record: TrainingRecord) -> TrainingPart:
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
