"""The check for drift: new patches, or earlier predictions of them, are compared with the cases of their model."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from histopipe.core.colours import COLOURS
from histopipe.core.errors import MonitoringError
from histopipe.core.files import write_json, write_text
from histopipe.core.outputs.claims import OutputFolder, ensure_claimed
from histopipe.core.params import Params
from histopipe.core.tables import write_csv
from histopipe.core.workspace import Workspace
from histopipe.evaluation.drift.profiles import new_profiles
from histopipe.evaluation.figures import save_figure
from histopipe.inference.model import (
    load_served_model,
    model_folder,
    read_reference,
    read_served_point,
    require_data_set,
)
from histopipe.inference.pixel_size import trained_pixel_size
from histopipe.inference.record import SUMMARY, read_summary
from histopipe.inference.slide_prediction import SlideOptions
from histopipe.inference.stage import CASES, PREDICTIONS, case_namer, predict_inputs
from histopipe.ingest.archives.limits import MemberLimit
from histopipe.monitoring.comparison import compare_profiles
from histopipe.monitoring.figure import draw_drift
from histopipe.monitoring.record import DRIFT, DriftSummary
from histopipe.monitoring.report import markdown_of, summary_of

COMMAND = "monitor"  # name in the marker of its folders
PREDICTIONS_FOLDER = "scores"  # folder of the predictions in a drift report
REPORT, FIGURE = "drift.md", "drift.png"

_OLD = "evaluate it again (`dvc repro`), promote, and name the new version"


def monitor_inputs(
    dataset: str, inputs: list[Path], model: str, out: Path | OutputFolder, params: Params, workspace: Workspace
) -> DriftSummary:
    """Predict new patches and check them for drift; write both into `out`.

    Args:
        dataset: the model's data set.
        inputs: image files, slides, folders of both, and archives.
        model: the model, in a form that `histopipe.inference.model.load_served_model` accepts.
        out: the folder to write, completely or not at all: `drift.json`, `drift.md`, `drift.png`, `cases.csv`,
            `scores/`. Either the result of `histopipe.core.outputs.claims.claim_folder`, or a path, where only an
            earlier drift report is replaced.
        params: limits, and the seed of the exchanges.
        workspace: the workspace whose tracking store is used.

    Returns:
        The content of `drift.json`.

    Raises:
        MonitoringError: the model has no reference, or too few cases can be compared.
        PredictionError, ArchiveError: the inputs can't be predicted.
        OutputError: `out` holds other files, or would be read as input.
    """
    output = ensure_claimed(out, COMMAND, {"the input": inputs})
    served = load_served_model(model, dataset, workspace)
    reference = _require_reference(served.reference, served.name)
    with output.written() as folder:
        slide_options = SlideOptions(trained_pixel_size(dataset, params.dataset(dataset)))
        limit = MemberLimit(params.ingest.max_members)
        namer = case_namer(served, workspace)
        predict_inputs(
            served, inputs, folder / PREDICTIONS_FOLDER, slide_options=slide_options, limit=limit, namer=namer
        )
        return _report(folder / PREDICTIONS_FOLDER, reference, folder, params)


def monitor_predictions(
    dataset: str, scores: Path, model: str | None, out: Path | OutputFolder, params: Params, workspace: Workspace
) -> DriftSummary:
    """Check earlier predictions of `histopipe predict` for drift; otherwise like `monitor_inputs`.

    Args:
        dataset: the model's data set.
        `scores`: the folder with the predictions.
        model: the model that made them; by default the model that the folder names.
        out: the folder to write.
        params: limits, and the seed of the exchanges.
        workspace: the workspace whose tracking store is used.

    Raises:
        MonitoringError: another model made the predictions, or they are from a version that kept no colours.
        OutputError: `out` holds other files, or contains the predictions.
    """
    output = ensure_claimed(out, COMMAND, {"the predictions": [scores]})
    if not (scores / SUMMARY).is_file():
        raise MonitoringError(f"{scores} is no folder of `histopipe predict` (no {SUMMARY}): name one, or the patches")
    predicted = read_summary(scores)
    if predicted.get("data_set") != dataset:
        raise MonitoringError(f"{scores} was predicted by a model of {predicted.get('data_set')}, not of {dataset}")
    with model_folder(model or predicted["model"], dataset, workspace) as (folder, address):
        require_data_set(folder, read_served_point(folder, address), address, dataset, workspace)
        model_id, reference = read_reference(folder)
    if model_id != predicted.get("model_id"):
        raise MonitoringError(
            f"{scores} was predicted by another model than {address} is now: name it (--model models:/NAME/VERSION)"
        )
    with output.written() as report:
        return _report(scores, _require_reference(reference, address), report, params)


def _require_reference(reference: pd.DataFrame | None, address: str) -> pd.DataFrame:
    if reference is None:
        raise MonitoringError(f"{address} has no reference, since an early version evaluated it: {_OLD}")
    return reference


def _report(scores: Path, reference: pd.DataFrame, folder: Path, params: Params) -> DriftSummary:
    predicted = read_summary(scores)
    new = new_profiles(_patches(scores / PREDICTIONS))
    comparison = compare_profiles(reference, new, params.monitor, params.seed, predicted.get("data_set") or "")
    summary = summary_of(comparison, predicted, params.monitor)
    write_csv(comparison.cases, folder / CASES)
    judged = new[new["case_id"].isin(comparison.cases["case_id"])]
    save_figure(draw_drift(reference, judged, comparison, summary["said"]), folder / FIGURE)
    write_text(folder / REPORT, markdown_of(summary, comparison))
    write_json(folder / DRIFT, summary)
    return summary


def _patches(path: Path) -> pd.DataFrame:
    import pyarrow.parquet as pq

    try:
        columns = set(pq.read_schema(path).names)
        if not set(COLOURS) <= columns:
            raise MonitoringError(f"{path} has no colour statistics: predict the patches again")
        return pd.read_parquet(path, columns=["case_id", "probability", *COLOURS])
    except (OSError, ValueError) as problem:
        raise MonitoringError(f"{path} can't be read ({' '.join(str(problem).split())}): predict again") from None
