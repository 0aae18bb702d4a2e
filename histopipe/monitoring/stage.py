"""Looking for drift: new patches are graded, or were, and stand beside the cases that their model was made from."""

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
from histopipe.inference.model import check_data, load_served, model_folder, point_in, reference_in
from histopipe.inference.pixel_size import trained_pixel_size
from histopipe.inference.record import SUMMARY, read_summary
from histopipe.inference.slide_prediction import SlideOptions
from histopipe.inference.stage import CASES, PREDICTIONS, case_namer, grade_inputs
from histopipe.ingest.archives.limits import MemberLimit
from histopipe.monitoring.comparison import compare_profiles
from histopipe.monitoring.figure import draw_drift
from histopipe.monitoring.record import DRIFT, DriftSummary
from histopipe.monitoring.report import markdown_of, summary_of

COMMAND = "monitor"  # as the marker of its folders has it
SCORES = "scores"  # folder of a report whose patches were graded for it
REPORT, FIGURE = "drift.md", "drift.png"

_OLD = "evaluate it again (`dvc repro`), promote, and name the new version"


def monitor_inputs(
    dataset: str, inputs: list[Path], model: str, out: Path | OutputFolder, params: Params, workspace: Workspace
) -> DriftSummary:
    """Grade new patches and look for drift; write both into `out`.

    Args:
        dataset: the model's data set.
        inputs: image files, slides, folders of both, and archives.
        model: as `histopipe.inference.model.load_served` takes it.
        out: the folder to write, whole or not at all: `drift.json`, `drift.md`, `drift.png`, `cases.csv`, `scores/`;
            as `histopipe.core.outputs.claims.claim_folder` gives it, or a path, where an earlier report is replaced
            and nothing else.
        params: limits, and the seed of the exchanges.
        workspace: whose tracking store is asked.

    Returns:
        The content of `drift.json`.

    Raises:
        MonitoringError: the model carries no reference, or too few cases can be compared.
        ScoringError, ArchiveError: as grading raises them.
        OutputError: something else lies in `out`, or it would be read as input.
    """
    output = ensure_claimed(out, COMMAND, {"the input": inputs})
    served = load_served(model, dataset, workspace)
    reference = _required(served.reference, served.name)
    with output.written() as folder:
        reading = SlideOptions(trained_pixel_size(dataset, params.dataset(dataset)))
        limit = MemberLimit(params.ingest.max_members)
        namer = case_namer(served, workspace)
        grade_inputs(served, inputs, folder / SCORES, reading=reading, limit=limit, namer=namer)
        return _report(folder / SCORES, reference, folder, params)


def monitor_predictions(
    dataset: str, scores: Path, model: str | None, out: Path | OutputFolder, params: Params, workspace: Workspace
) -> DriftSummary:
    """Look for drift in patches that `histopipe predict` graded before; as `monitor_inputs`.

    Args:
        dataset: the model's data set.
        scores: the folder that it wrote.
        model: that graded; the one that the folder names where None.
        out: the folder to write.
        params: limits, and the seed of the exchanges.
        workspace: whose tracking store is asked.

    Raises:
        MonitoringError: another model graded the patches, or they were graded before colours were kept.
        OutputError: something else lies in `out`, or it holds the scores.
    """
    output = ensure_claimed(out, COMMAND, {"the scores": [scores]})
    if not (scores / SUMMARY).is_file():
        raise MonitoringError(f"{scores} is no folder of `histopipe predict` (no {SUMMARY}): name one, or the patches")
    graded = read_summary(scores)
    if graded.get("data_set") != dataset:
        raise MonitoringError(f"{scores} was graded by a model of {graded.get('data_set')}, not of {dataset}")
    with model_folder(model or graded["model"], dataset, workspace) as (folder, address):
        check_data(folder, point_in(folder, address), address, dataset, workspace)
        model_id, reference = reference_in(folder)
    if model_id != graded.get("model_id"):
        raise MonitoringError(
            f"{scores} was graded by another model than {address} is now: name that one (--model models:/NAME/VERSION)"
        )
    with output.written() as beside:
        return _report(scores, _required(reference, address), beside, params)


def _required(reference: pd.DataFrame | None, address: str) -> pd.DataFrame:
    if reference is None:
        raise MonitoringError(f"{address} carries no reference, since it was evaluated before there were any: {_OLD}")
    return reference


def _report(scores: Path, reference: pd.DataFrame, folder: Path, params: Params) -> DriftSummary:
    graded = read_summary(scores)
    new = new_profiles(_patches(scores / PREDICTIONS))
    comparison = compare_profiles(reference, new, params.monitor, params.seed, graded.get("data_set") or "")
    summary = summary_of(comparison, graded, params.monitor)
    write_csv(comparison.cases, folder / CASES)
    judged = new[new["case_id"].isin(comparison.cases["case_id"])]
    save_figure(draw_drift(reference, judged, comparison, summary["said"]), folder / FIGURE)
    write_text(folder / REPORT, markdown_of(summary, comparison))
    write_json(folder / DRIFT, summary)
    return summary


def _patches(path: Path) -> pd.DataFrame:
    import pyarrow.parquet as pq

    try:
        known = set(pq.read_schema(path).names)
        if not set(COLOURS) <= known:
            raise MonitoringError(f"{path} was graded before colours were kept: grade the patches again")
        return pd.read_parquet(path, columns=["case_id", "probability", *COLOURS])
    except (OSError, ValueError) as problem:
        raise MonitoringError(f"{path} can't be read ({' '.join(str(problem).split())}): grade again") from None
