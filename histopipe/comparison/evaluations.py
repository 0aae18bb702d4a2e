"""The evaluations that a comparison sets side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from histopipe.errors import HistopipeError
from histopipe.files import file_digest, read_json
from histopipe.params import Params
from histopipe.paths import Workspace, stage_name

Row = dict[str, Any]


@dataclass(frozen=True)
class Evaluated:
    """One model of the comparison.

    Attributes:
        row: its name under `architecture`, and the content of its `metrics.json`.
        predictions: of validation and test, as in `predictions.parquet`.
    """

    row: Row
    predictions: pd.DataFrame


def read_evaluations(dataset: str, params: Params, workspace: Workspace) -> tuple[list[Evaluated], list[Row]]:
    """The evaluations of the listed architectures that can be ranked, and the rows of those that can't."""
    rows = [read_evaluation(dataset, architecture, params, workspace) for architecture in params.architectures]
    ranked = [
        Evaluated(row, pd.read_parquet(workspace.evaluation(dataset, row["architecture"]) / "predictions.parquet"))
        for row in rows
        if "state" not in row
    ]
    return ranked, [row for row in rows if "state" in row]


def read_evaluation(dataset: str, architecture: str, params: Params, workspace: Workspace) -> Row:
    """One architecture's numbers; or, where they can't be ranked, its `state` and the `reason`."""
    from histopipe.training.recipe import recipe_digest
    from histopipe.weights import weights_digest

    path = workspace.evaluation(dataset, architecture) / "metrics.json"
    if not path.is_file():
        return _unranked(architecture, "not trained", f"run `dvc repro {_stage(dataset, architecture)}`")
    try:
        metrics: Row = read_json(path)
    except HistopipeError as problem:
        return _unranked(architecture, "not readable", str(problem))
    today = {
        "split": ("split_digest", file_digest(workspace.split(dataset))),
        "recipe": (
            "recipe_digest",
            recipe_digest(params, architecture, weights_digest(architecture, params, workspace)),
        ),
    }
    changed = [name for name, (key, digest) in today.items() if metrics.get(key) != digest]
    if changed:
        reason = f"the {' and the '.join(changed)} changed since: run `dvc repro {_stage(dataset, architecture)}`"
        return _unranked(architecture, "out of date", reason)
    return {"architecture": architecture, **metrics}


def _stage(dataset: str, architecture: str) -> str:
    return stage_name("evaluate", dataset, architecture)


def _unranked(architecture: str, state: str, reason: str) -> Row:
    return {"architecture": architecture, "state": state, "reason": reason}
