"""The page's part on each model: curves, calibration, confusion, cases, subgroups, pictures."""

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
    draw_cases,
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
from histopipe.reporting.report.reading import TableRow, known_json, known_table, records
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
SHOWN_SLIDES = 3  # of each model; the rest lies in its folder
EXPLAINING = {
    "gallery.png": "patches it was most and least sure of, and what speaks for each class",
    "explanation.png": "how fast its decisions fall as what the maps point at is removed",
}
PREDICTED = ["case_id", "split", "label", "probability", "decision"]


def model_part(
    dataset: str, row: ModelRow, classes: tuple[str, str], pictures: Mapping[Path, Picture], workspace: Workspace
) -> dict[str, object]:
    """One model as the template takes it; what hasn't been written for it is None or empty.

    Args:
        dataset: the data set's name.
        row: of the ranking.
        classes: the negative class, then the positive one.
        pictures: what `embed` made of `picture_files`.
        workspace: where to read.
    """
    name = row["architecture"]
    folder = workspace.evaluation(dataset, name)
    test = tested(folder)
    slides = slide_files(folder)
    history = known_table(workspace.model(dataset, name) / "history.csv", "epoch", *HISTORY)
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
    """The pictures that the page shows of each model, with what they show."""
    found = []
    for name in names:
        folder = workspace.evaluation(dataset, name)
        for case, path in slide_files(folder)[:SHOWN_SLIDES]:
            found.append((path, f"{name}, case {case}: tissue, truth, probability and error side by side"))
        found += [(path, f"{name}: {EXPLAINING[path.name]}") for path in explaining_files(folder)]
    return found


def slide_files(folder: Path) -> list[tuple[str, Path]]:
    """Case and picture of an evaluation's slides, whole ones before samples, many patches before few."""
    slides = known_table(folder / f"{SLIDES}.csv", "case_id", "file")
    return [] if slides is None else slide_pictures(slides, folder)


def explaining_files(folder: Path) -> list[Path]:
    """The pictures that explain a model's decisions, as far as they were drawn."""
    return [path for name in EXPLAINING if (path := folder / "figures" / name).is_file()]


def _explanation(folder: Path) -> str:
    """How the maps were made and what they are worth, or why there are none; empty where nothing is known."""
    found: Explanation = known_json(folder / EXPLANATION_FILE)
    if "reason" in found:
        return f"Decisions could not be explained: {found['reason']}"
    if not {"method", "layer", "verdict", "gain"} <= set(found):
        return ""
    how = f"Maps by {found['method']} at {found['layer']}, at finding what decides"
    on_chance = found["verdict"].split(";")[0]
    references = found.get("references") or {}
    beside: list[ReferenceGain] = [{"verdict": on_chance, "gain": found["gain"]}, *references.values()]
    outcomes = [f"{each['verdict']} ({signed(each['gain'])})" for each in beside]
    return f"{how}: {'; '.join(outcomes)}."


def tested(folder: Path) -> pd.DataFrame:
    """Predictions of the test patches."""
    table = pd.read_parquet(folder / "predictions.parquet", columns=PREDICTED)
    return table[table["split"] == "test"]


def confusion(test: pd.DataFrame) -> list[list[tuple[int, float]]]:
    """Patches, and their share of the actual class: by actual class, then by what they were called."""
    counts = pd.crosstab(test["label"], test["decision"]).reindex(index=[0, 1], columns=[0, 1], fill_value=0)
    return [[(int(count), count / max(1, sum(row))) for count in row] for row in counts.to_numpy()]


def overview(dataset: str, names: Sequence[str], positive: str, workspace: Workspace) -> list[Drawing]:
    """All models' ROC curves in one drawing and their calibration in another, in the order of the ranking."""
    folders = [(name, workspace.evaluation(dataset, name)) for name in names]
    roc = [(name, curve) for name, folder in folders if (curve := _table(folder, "roc")) is not None]
    bins = [(name, table) for name, folder in folders if (table := _table(folder, "calibration")) is not None]
    return [
        *([drawing(draw_roc_curves(roc), "ROC curves")] if roc else []),
        *([drawing(draw_calibrations(bins, positive), "Calibration")] if bins else []),
    ]


def _plots(dataset: str, row: ModelRow, folder: Path, test: pd.DataFrame, classes: tuple[str, str]) -> list[Drawing]:
    """The figures of the evaluation itself, drawn from its tables; those without a table are left out."""
    predictions = Predictions.of(test["label"], test["probability"], test["decision"], test["case_id"])
    before = _before(row, folder, test)
    metrics = (
        row["test"] if before is None else row["test"] | {"uncalibrated": row["uncalibrated"]["calibration_error"]}
    )
    graded = Evaluation(dataset, row["architecture"], classes, predictions, metrics, row["threshold"])
    draw: dict[str, tuple[str, Callable[[pd.DataFrame], Figure]]] = {
        "roc": ("ROC curve", lambda table: draw_roc(graded, table)),
        "precision_recall": ("precision and recall", lambda table: draw_precision_recall(graded, table)),
        "calibration": ("calibration", lambda table: draw_calibration(graded, table, before)),
        "cases": ("accuracy of every case", lambda table: draw_cases(graded, table)),
    }
    tables = [(_table(folder, name), *drawn) for name, drawn in draw.items()]
    return [drawing(of(table), f"{graded.architecture}: {what}") for table, what, of in tables if table is not None]


def _table(folder: Path, name: str) -> pd.DataFrame | None:
    return known_table(folder / f"{name}.csv", *DRAWN[name])


def _learning(name: str, history: pd.DataFrame | None) -> list[Drawing]:
    """Validation's scores and the losses by epoch."""
    if history is None:
        return []
    return [
        drawing(draw_learning(draw_metrics, "score", history), f"{name}: validation scores"),
        drawing(draw_learning(draw_losses, "loss", history), f"{name}: loss (training: weighted by class)"),
    ]


def _before(row: ModelRow, folder: Path, test: pd.DataFrame) -> pd.DataFrame | None:
    """Reliability before calibration, by undoing it; None where it isn't known."""
    from scipy.special import expit

    point = known_json(folder / POINT_FILE)
    if not {"temperature", "offset"} <= set(point) or "uncalibrated" not in row:
        return None
    logits = (log_odds(test["probability"].to_numpy()) - point["offset"]) * point["temperature"]
    before = Predictions.of(test["label"], pd.Series(expit(logits), test.index), test["decision"], test["case_id"])
    return calibration_table(before)


def _cases(folder: Path) -> dict[str, object]:
    table = known_table(folder / "cases.csv", "case_id", "patches", "positives", "called", "accuracy")
    if table is None:
        return {"cases": [], "more_cases": 0}
    return {"cases": records(table.head(WORST_CASES)), "more_cases": max(0, len(table) - WORST_CASES)}


def _subgroups(folder: Path) -> list[TableRow]:
    """Each subgroup with its metrics and the drawing of its area's interval."""
    table = known_table(folder / "subgroups.csv", "group", "level", "cases", "patches", "positives", "roc_auc")
    if table is None:
        return []
    rows = records(table)
    ends = {"value": "", "low": "_low", "high": "_high"}
    metrics = [
        {name: {end: row.get(f"{name}{suffix}") for end, suffix in ends.items()} for name in SUBGROUP_METRICS}
        for row in rows
    ]
    drawn = bars([each["roc_auc"] for each in metrics])
    return [row | {"metrics": each, "bar": bar} for row, each, bar in zip(rows, metrics, drawn, strict=True)]
