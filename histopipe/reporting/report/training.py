"""The page's last part: what each training was made from, and what it took."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from histopipe.core.workspace import Workspace
from histopipe.reporting.comparison.evaluations import Row
from histopipe.reporting.report.reading import known_json

NAMES = {"python": "Python", "histopipe": "histopipe", "keras": "Keras", "tensorflow": "TensorFlow", "numpy": "NumPy"}
NAMES |= {"jax": "JAX", "torch": "PyTorch"}


def training_part(dataset: str, names: Sequence[str], workspace: Workspace) -> list[Row]:
    """Each model's record (`run.json`) as the template takes it; what a record doesn't say is empty."""
    return [_trained(name, known_json(workspace.model(dataset, name) / "run.json")) for name in names]


def _trained(name: str, record: dict[str, Any]) -> Row:
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
