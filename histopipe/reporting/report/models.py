"""The report's part on each model: curves, calibration, confusion, cases, subgroups, pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from histopipe.core.operating_point import POINT_FILE
from histopipe.core.workspace import Workspace
from histopipe.evaluation.calibration import log_odds
from histopipe.evaluation.curves import calibration_table
from histopipe.evaluation.explanation.record import EXPLANATION_FILE, Explanation, ReferenceGain
from histopipe.evaluation.figures import (
    Evaluation,
    draw_calibration,
    draw_case_accuracy,
    draw_precision_recall,
    draw_roc,
)
from histopipe.evaluation.metrics import Predictions
from histopipe.evaluation.slide_figures import SLIDES, slide_pictures
from histopipe.evaluation.subgroups import SUBGROUP_METRICS
from histopipe.reporting.comparison.record import ModelRow
from histopipe.reporting.comparison.table import signed
from histopipe.reporting.report.bars import bars
from histopipe.reporting.report.drawings import Drawing, drawing
from histopipe.reporting.report.figures import draw_calibrations, draw_learning, draw_roc_curves
from histopipe.reporting.report.pictures import Picture
from histopipe.reporting.report.reading import TableRow, read_json_if_present, read_table_if_present, rows_of
from histopipe.training.figures import draw_losses, draw_metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WORST_CASES = 8
HISTORY = ("train/loss", "validation/loss", "validation/roc_auc", "validation/accuracy")
DRAWN = {
    "roc": ("fpr", "tpr"),
    "precision_recall": ("recall", "precision"),
    "calibration": ("low", "high", "predicted", "observed", "patches"),
    "cases": ("case_id", "patches", "accuracy"),
}
SHOWN_SLIDES = 3  # per model; the other slides are in its folder
EXPLAINING = {
    "gallery.png": "patches of the most and least certain predictions, and the evidence for each class",
    "explanation.png": "predicted probability while the pixels that its maps highlight are removed or shown",
}
PREDICTED = ["case_id", "split", "label", "probability", "decision"]


def model_part(
    dataset: str, row: ModelRow, classes: tuple[str, str], pictures: Mapping[Path, Picture], workspace: Workspace
) -> dict[str, object]:
    """Collect what the template shows of one model; what is missing is None or empty.

    Args:
        dataset: name of the data set.
        row: the model's row of the ranking.
        classes: the negative class, then the positive one.
        pictures: the embedded pictures of `picture_files`.
        workspace: the workspace to read from.
    """
    name = row["architecture"]
    folder = workspace.evaluation(dataset, name)
    test = read_test_predictions(folder)
    slides = slide_files(folder)
    history = read_table_if_present(workspace.model(dataset, name) / "history.csv", "epoch", *HISTORY)
    return {
        "name": name,
        "row": row,
        "plots": [*_plots(dataset, row, folder, test, classes), *_learning(name, history)],
        "confusion": confusion(test),
        **_cases(folder),
        "subgroups": _subgroups(folder),
        "slides": [pictures[path] for _, path in slides[:SHOWN_SLIDES]],
        "more_slides": max(0, len(slides) - SHOWN_SLIDES),
        "explaining": [pictures[path] for path in explaining_files(folder)],
        "explanation": _explanation(folder),
        "folder": folder.relative_to(workspace.root).as_posix(),
    }


def picture_files(dataset: str, names: Iterable[str], workspace: Workspace) -> list[tuple[Path, str]]:
    """List the pictures that the page shows of each model, with descriptions."""
    files = []
    for name in names:
        folder = workspace.evaluation(dataset, name)
        for case, path in slide_files(folder)[:SHOWN_SLIDES]:
            files.append((path, f"{name}, case {case}: tissue, truth, probability and error side by side"))
        files += [(path, f"{name}: {EXPLAINING[path.name]}") for path in explaining_files(folder)]
    return files


def slide_files(folder: Path) -> list[tuple[str, Path]]:
    """List case and picture of an evaluation's slides, whole slides before samples, many patches before few."""
    slides = read_table_if_present(folder / f"{SLIDES}.csv", "case_id", "file")
    return [] if slides is None else slide_pictures(slides, folder)


def explaining_files(folder: Path) -> list[Path]:
    """List the pictures that explain a model's decisions, if they were drawn."""
    return [path for name in EXPLAINING if (path := folder / "figures" / name).is_file()]


def _explanation(folder: Path) -> str:
    """State how the maps were computed and their verdicts, or why there are none; empty if nothing is recorded."""
    explanation: Explanation = read_json_if_present(folder / EXPLANATION_FILE)
    if "reason" in explanation:
        return f"Decisions could not be explained: {explanation['reason']}"
    if not {"method", "layer", "verdict", "gain"} <= set(explanation):
        return ""
    how = f"Maps by {explanation['method']} at {explanation['layer']}, at finding the pixels that decide"
    on_chance = explanation["verdict"].split(";")[0]
    references = explanation.get("references") or {}
    gains: list[ReferenceGain] = [{"verdict": on_chance, "gain": explanation["gain"]}, *references.values()]
    outcomes = [f"{reference['verdict']} ({signed(reference['gain'])})" for reference in gains]
    return f"{how}: {'; '.join(outcomes)}."


def read_test_predictions(folder: Path) -> pd.DataFrame:
    """Read the predictions of the test patches."""
    table = pd.read_parquet(folder / "predictions.parquet", columns=PREDICTED)
    return table[table["split"] == "test"]


def confusion(test: pd.DataFrame) -> list[list[tuple[int, float]]]:
    """Count patches by actual class, then by the class they were called; add their share of the actual class."""
    counts = pd.crosstab(test["label"], test["decision"]).reindex(index=[0, 1], columns=[0, 1], fill_value=0)
    return [[(int(count), count / max(1, sum(row))) for count in row] for row in counts.to_numpy()]


def overview(dataset: str, names: Sequence[str], positive: str, workspace: Workspace) -> list[Drawing]:
    """Draw the ROC curves of all models together, and their calibration, in the order of the ranking."""
    folders = [(name, workspace.evaluation(dataset, name)) for name in names]
    roc = [(name, curve) for name, folder in folders if (curve := _table(folder, "roc")) is not None]
    bins = [(name, table) for name, folder in folders if (table := _table(folder, "calibration")) is not None]
    return [
        *([drawing(draw_roc_curves(roc), "ROC curves")] if roc else []),
        *([drawing(draw_calibrations(bins, positive), "Calibration")] if bins else []),
    ]


def _plots(dataset: str, row: ModelRow, folder: Path, test: pd.DataFrame, classes: tuple[str, str]) -> list[Drawing]:
    """Draw the figures of an evaluation from its tables; figures without a table are left out."""
    predictions = Predictions.from_arrays(test["label"], test["probability"], test["decision"], test["case_id"])
    before = _before_calibration(row, folder, test)
    metrics = (
        row["test"] if before is None else row["test"] | {"uncalibrated": row["uncalibrated"]["calibration_error"]}
    )
    evaluation = Evaluation(dataset, row["architecture"], classes, predictions, metrics, row["threshold"])
    draw: dict[str, tuple[str, Callable[[pd.DataFrame], Figure]]] = {
        "roc": ("ROC curve", lambda table: draw_roc(evaluation, table)),
        "precision_recall": ("precision and recall", lambda table: draw_precision_recall(evaluation, table)),
        "calibration": ("calibration", lambda table: draw_calibration(evaluation, table, before)),
        "cases": ("accuracy of every case", lambda table: draw_case_accuracy(evaluation, table)),
    }
    tables = [(_table(folder, name), *drawn) for name, drawn in draw.items()]
    name = row["architecture"]
    return [drawing(drawn(table), f"{name}: {title}") for table, title, drawn in tables if table is not None]


def _table(folder: Path, name: str) -> pd.DataFrame | None:
    return read_table_if_present(folder / f"{name}.csv", *DRAWN[name])


def _learning(name: str, history: pd.DataFrame | None) -> list[Drawing]:
    """Draw the validation metrics and the losses by epoch."""
    if history is None:
        return []
    return [
        drawing(draw_learning(draw_metrics, "metric", history), f"{name}: validation metrics"),
        drawing(draw_learning(draw_losses, "loss", history), f"{name}: loss (training: weighted by class)"),
    ]


def _before_calibration(row: ModelRow, folder: Path, test: pd.DataFrame) -> pd.DataFrame | None:
    """Compute the reliability before calibration by undoing it; None if the calibration isn't recorded."""
    from scipy.special import expit

    point = read_json_if_present(folder / POINT_FILE)
    if not {"temperature", "offset"} <= set(point) or "uncalibrated" not in row:
        return None
    logits = (log_odds(test["probability"].to_numpy()) - point["offset"]) * point["temperature"]
    before = Predictions.from_arrays(
        test["label"], pd.Series(expit(logits), test.index), test["decision"], test["case_id"]
    )
    return calibration_table(before)


def _cases(folder: Path) -> dict[str, object]:
    table = read_table_if_present(folder / "cases.csv", "case_id", "patches", "positives", "called", "accuracy")
    if table is None:
        return {"cases": [], "more_cases": 0}
    return {"cases": rows_of(table.head(WORST_CASES)), "more_cases": max(0, len(table) - WORST_CASES)}


def _subgroups(folder: Path) -> list[TableRow]:
    """List each subgroup with its metrics and the bar of its ROC AUC."""
    columns = ("group", "level", "cases", "patches", "positives", "roc_auc")
    table = read_table_if_present(folder / "subgroups.csv", *columns)
    if table is None:
        return []
    rows = rows_of(table)
    ends = {"value": "", "low": "_low", "high": "_high"}
    metrics = [
        {name: {end: row.get(f"{name}{suffix}") for end, suffix in ends.items()} for name in SUBGROUP_METRICS}
        for row in rows
    ]
    drawn = bars([values["roc_auc"] for values in metrics])
    return [row | {"metrics": values, "bar": bar} for row, values, bar in zip(rows, metrics, drawn, strict=True)]
