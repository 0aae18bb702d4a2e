"""The evaluations from which a comparison is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from histopipe.core.errors import EvaluationError, HistopipeError
from histopipe.core.files import file_digest
from histopipe.core.params import Params
from histopipe.core.stages.inputs import rerun_command
from histopipe.core.training_record import CopiedTrainingFields, read_training_record
from histopipe.core.workspace import Workspace, stage_name
from histopipe.data.store import read_index, require_reading
from histopipe.evaluation.cases import JOINED, joined_cases
from histopipe.evaluation.predictions import EVALUATED_SPLITS, read_predictions
from histopipe.evaluation.record import METRICS_FILE, read_metrics
from histopipe.reporting.comparison.record import EvaluationRow, ModelRow, UnrankedRow


@dataclass(frozen=True)
class EvaluatedModel:
    """One model of the comparison.

    Attributes:
        row: its name under `architecture`, and the content of its `metrics.json`.
        predictions: its predictions of validation and test, as in `predictions.parquet`; with `JOINED` if ids share
            patches.
    """

    row: ModelRow
    predictions: pd.DataFrame


def read_evaluations(
    dataset: str, params: Params, workspace: Workspace
) -> tuple[list[EvaluatedModel], list[UnrankedRow]]:
    """Read the evaluations of the listed recipes.

    Returns:
        The evaluations that can be ranked, and rows with the reason for those that can't.

    Raises:
        StoreError: there is no index, or it doesn't follow the reading of case ids in `params.yaml`.
    """
    from histopipe.data.splitting.membership import split_of_patches

    require_reading(workspace.store(dataset), params.case_reading(dataset))
    index = read_index(workspace.store(dataset))
    today = _evaluated_patches(index.assign(split=split_of_patches(workspace.split(dataset), index)))
    joined = joined_cases(index[index["file"].isin(set(today["file"]))])
    case_by_file = None if joined is None else dict(zip(index.loc[joined.index, "file"], joined, strict=True))
    ranked: list[EvaluatedModel] = []
    unranked: list[UnrankedRow] = []
    for architecture in params.architectures:
        row = read_evaluation(dataset, architecture, params, workspace)
        if "state" in row:
            unranked.append(row)
            continue
        try:
            predictions = read_predictions(workspace.evaluation(dataset, architecture) / "predictions.parquet")
        except EvaluationError as problem:
            unranked.append(_unranked_row(architecture, "not readable", str(problem)))
            continue
        if _evaluated_patches(predictions).equals(today):
            ranked.append(EvaluatedModel(row, _set_joined_cases(predictions, case_by_file)))
        else:  # the split's file stays the same if existing cases gain patches
            unranked.append(_out_of_date_row(dataset, architecture, ["data"]))
    return ranked, unranked


def _set_joined_cases(predictions: pd.DataFrame, case_by_file: Mapping[str, str] | None) -> pd.DataFrame:
    """Set the joined cases from the current store, whichever version wrote the predictions; None if none are joined."""
    if case_by_file is None:
        return predictions.drop(columns=JOINED, errors="ignore")
    return predictions.assign(**{JOINED: predictions["file"].map(case_by_file)})


def _evaluated_patches(table: pd.DataFrame) -> pd.DataFrame:
    """List the validation and test patches in the order of their files, so that tables can be compared."""
    patches = table.loc[table["split"].isin(EVALUATED_SPLITS), ["file", "case_id", "label", "split"]]
    return patches.sort_values("file", kind="stable").reset_index(drop=True).astype({"label": "int64"}).astype(str)


def read_evaluation(
    dataset: str, architecture: str, params: Params, workspace: Workspace
) -> EvaluationRow | UnrankedRow:
    """Read the metrics of one recipe's model; return its `state` and the `reason` if it can't be ranked."""
    from histopipe.networks.weights.record import weights_digest
    from histopipe.training.recipe import recipe_digest

    folder = workspace.evaluation(dataset, architecture)
    if not (folder / METRICS_FILE).is_file():
        return _unranked_row(architecture, "not trained", f"run `dvc repro {_stage(dataset, architecture)}`")
    try:
        metrics = read_metrics(folder)
    except HistopipeError as problem:
        return _unranked_row(architecture, "not readable", str(problem))
    today = {
        "split": ("split_digest", file_digest(workspace.split(dataset))),
        "recipe": (
            "recipe_digest",
            recipe_digest(params, architecture, weights_digest(architecture, params, workspace)),
        ),
    }
    changed = [name for name, (key, digest) in today.items() if metrics.get(key) != digest]
    if changed:
        return _out_of_date_row(dataset, architecture, changed, _remedy(dataset, architecture, today, workspace))
    return {"architecture": architecture, **metrics}


def _stage(dataset: str, architecture: str) -> str:
    return stage_name("evaluate", dataset, architecture)


def _unranked_row(architecture: str, state: str, reason: str) -> UnrankedRow:
    return {"architecture": architecture, "state": state, "reason": reason}


def _remedy(dataset: str, architecture: str, today: Mapping[str, tuple[str, str]], workspace: Workspace) -> str:
    """Return the command that repeats a training and its evaluation, even if DVC considers one of them up to date."""
    evaluate, train = _stage(dataset, architecture), stage_name("train", dataset, architecture)
    try:
        record: CopiedTrainingFields = read_training_record(workspace.training_record(dataset, architecture))
    except (HistopipeError, OSError, ValueError):
        record = {}
    if all(record.get(key) == digest for key, digest in today.values()):
        return f"`{rerun_command(evaluate, workspace)}`"
    command = rerun_command(train, workspace)
    return f"`{command}`, then `dvc repro {evaluate}`" if "--force" in command else f"`dvc repro {evaluate}`"


def _out_of_date_row(dataset: str, architecture: str, changed: Sequence[str], remedy: str = "") -> UnrankedRow:
    remedy = remedy or f"`dvc repro {_stage(dataset, architecture)}`"
    reason = f"the {' and the '.join(changed)} changed since: run {remedy}"
    return _unranked_row(architecture, "out of date", reason)
