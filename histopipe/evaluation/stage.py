"""The evaluate stage: threshold and calibration from validation, then a single evaluation of each model on test.

It writes `metrics.json`, `predictions.parquet`, `operating_point.json`, `classification_report.txt`, `cases.csv`,
`subgroups.csv`, `slides.csv`, the curves as CSV, the figures as PNG, and `reference.parquet`, with which new data are
compared to detect drift. An undefined metric, such as precision if nothing is called positive, is null in
`metrics.json`. The predictions of a network that averages over symmetries have a further column `one_view`, the
probability without averaging. Those of other networks have a column `d4`, the probability with averaging, if
`evaluate.symmetries` is set.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histopipe.core.cases.ids import normal_id
from histopipe.core.cases.labels import holds_both_classes
from histopipe.core.colours import COLOURS
from histopipe.core.errors import EvaluationError
from histopipe.core.files import replaced_folder, write_json, write_text
from histopipe.core.operating_point import OperatingPoint, write_operating_point
from histopipe.core.params import EvaluateParams, Params
from histopipe.core.processes import BackgroundProcess
from histopipe.core.stages.folders import stage_check
from histopipe.core.stages.inputs import StageInputs, current_inputs, rerun_command
from histopipe.core.tables import write_csv
from histopipe.core.training_record import TrainingRecord, read_training_record
from histopipe.core.workspace import TRAINING_RECORD, Workspace, stage_name
from histopipe.data.splitting.membership import Split, is_leaky, read_split
from histopipe.data.store import Patches, PatchStore, read_store_record, require_reading
from histopipe.evaluation.cases import JOINED, joined_cases, patch_columns
from histopipe.evaluation.drift.profiles import REFERENCE_FILE, reference_profiles
from histopipe.evaluation.metrics import Numbers
from histopipe.evaluation.predictions import (
    EVALUATED_SPLITS,
    before_calibration,
    calibration_of,
    choose_operating_point,
    evaluate_predictions,
    predictions_of,
    predictions_table,
)
from histopipe.evaluation.record import METRICS_FILE, MetricsRecord
from histopipe.evaluation.thresholds import require_cases_for_rule

if TYPE_CHECKING:
    import keras

    from histopipe.evaluation.figures import Evaluation

STAIN_CLUSTERS = 3
DRAWING = (__name__, "histopipe.evaluation.slide_figures", "matplotlib.backends.backend_agg")


def evaluate(
    dataset: str,
    architecture: str,
    params: Params,
    workspace: Workspace,
    explain: bool = True,
    processes: int = 1,
) -> MetricsRecord:
    """Evaluate one trained network and log it into its MLflow run as a model that can be served.

    Args:
        dataset, architecture: names of the data set and of the recipe.
        params: the parameters.
        workspace: the workspace to read from and write to.
        explain: whether to write the explanation as well (see `explain_evaluation`).
        processes: the number of processes; with two or more, figures are drawn in a background process.

    Returns:
        The content of `metrics.json`.

    Raises:
        EvaluationError: the network is missing, unreadable, or trained on another split or on test cases; predictions
            aren't numbers; a patch has no case; a split lacks a class; or validation has too few cases for the rule.
        ChangedInputError: the inputs changed meanwhile.
        TrackingUnreachableError: MLflow can't be reached (checked before anything is predicted) or fails later.
    """
    from histopipe.evaluation.explanation.stage import explain_evaluation
    from histopipe.evaluation.figures import draw_figures
    from histopipe.evaluation.mlflow_run import log_evaluation, log_files
    from histopipe.networks.logits import load_network
    from histopipe.tracking.runs import continued_run

    inputs, split, record = _checked_inputs(dataset, architecture, params, workspace)
    target = workspace.evaluation(dataset, architecture)
    with replaced_folder(target, stage_check("evaluate")) as folder, BackgroundProcess(DRAWING, processes) as drawing:
        network = load_network(workspace.model(dataset, architecture) / "model.keras")
        store = PatchStore.open(workspace.store(dataset))
        _require_evaluable(store, split, record, workspace.training_stage(dataset, architecture), params)
        logits = predict_splits(network, store, split, f"{dataset} {architecture}")
        point = operating_point(logits, dataset, params, store)
        table = predictions_table(logits, point)
        (figures := folder / "figures").mkdir()
        drawing.start(draw_slides_of_store, table[table.split == "test"], store.folder, point, params.evaluate, folder)
        table = table.assign(**predict_other_views(network, store, table, params, f"{dataset} {architecture}"))
        results = evaluate_predictions(table, point, record, params)
        reference = write_reference(folder / REFERENCE_FILE, table, store, split)
        parts = tables_by_part(table, store, split, params)
        shown, tables = write_outputs(folder, table, parts, point, results, architecture)
        drawing.start(draw_figures, shown, tables, figures)
        if explain:
            explain_evaluation(network, table, store, point, architecture, params, folder)
        inputs.require_unchanged()
        with continued_run(workspace, dataset, architecture, record["run_id"]) as run_id:
            log_evaluation(network, point, results, _example(store, table), reference, record.get("data"))
            drawing.wait()
            log_files(folder)
            results["run_id"] = run_id
            write_json(folder / METRICS_FILE, results)
            inputs.require_unchanged()
    return results


def _require_evaluable(store: PatchStore, split: Split, record: TrainingRecord, stage: str, params: Params) -> None:
    patches = patches_to_evaluate(store, split)
    require_unseen(record, patches, split, stage)
    require_cases_for_rule(params.evaluate.threshold, patches)


def _checked_inputs(
    dataset: str, architecture: str, params: Params, workspace: Workspace
) -> tuple[StageInputs, Split, TrainingRecord]:
    """Read the split and the training's record; check that they belong together and that MLflow can be reached."""
    from histopipe.tracking.stores import require_server, tracking_uri

    files = [workspace.split(dataset), workspace.store(dataset), workspace.model(dataset, architecture)]
    inputs = current_inputs(stage_name("evaluate", dataset, architecture), workspace, files)
    require_reading(workspace.store(dataset), params.case_reading(dataset))
    split = read_split(workspace.split(dataset))
    record = read_matching_training_record(dataset, architecture, workspace, split)
    require_server(tracking_uri(workspace))
    return inputs, split, record


def draw_slides_of_store(
    table: pd.DataFrame, store: Path, point: OperatingPoint, params: EvaluateParams, folder: Path
) -> None:
    """Open a store and call `draw_slides`; for a background process, to which no open store can be passed."""
    from histopipe.evaluation.slide_figures import draw_slides

    draw_slides(table, PatchStore.open(store), point, params, folder)


def read_matching_training_record(
    dataset: str, architecture: str, workspace: Workspace, split: Split
) -> TrainingRecord:
    """Read the training's record; check that the network was trained with the current split.

    Raises:
        EvaluationError: the network was trained with another split, so test cases may have been trained on.
    """
    path = workspace.model(dataset, architecture) / TRAINING_RECORD
    record = read_training_record(path)
    if record["split_digest"] != split.digest:
        raise EvaluationError(
            f"{path.parent} was trained on another split than {split} now holds: "
            f"run `{rerun_command(workspace.training_stage(dataset, architecture), workspace)}`"
        )
    return record


def require_unseen(record: TrainingRecord, table: pd.DataFrame, split: Split, stage: str) -> None:
    """Check that a network wasn't trained or validated on any test case.

    A split that divides patches instead of cases is exempt, since its splits share cases; its runs are tagged leaky.

    Args:
        record: record of the training.
        table: the patches to evaluate, see `patches_to_evaluate`.
        split: the split of these patches.
        stage: name of the stage that trains the network.

    Raises:
        EvaluationError: the network has seen a test case; the message names the first one.
    """
    if is_leaky(split.table):
        return
    listed = [*(record.get("train_cases") or ()), *(record.get("validation_cases") or ())]
    seen = {normal_id(str(case)) for case in listed}
    tested = set(table.loc[table["split"] == "test", "case_id"].astype(str).map(normal_id))
    if shared := sorted(tested & seen):
        raise EvaluationError(
            f"{split}: {len(shared)} of {len(tested)} test cases were trained or validated on (first: {shared[0]}), "
            f"according to the network's run.json: run `dvc repro --force --single-item {stage}`"
        )


def predict_splits(network: keras.Model, store: PatchStore, split: Split | Path, title: str) -> pd.DataFrame:
    """Predict the patches of validation and test.

    Returns:
        Columns `file,case_id,split,label,logit,row` (position in the store's index), in the store's order.

    Raises:
        EvaluationError: a patch has no case, a split has one class only, or predictions aren't numbers.
    """
    from histopipe.networks.logits import finite_logits

    table = patches_to_evaluate(store, split)
    table.insert(4, "logit", finite_logits(network, store, table["row"].to_numpy(), f"evaluate {title}"))
    return table


def patches_to_evaluate(store: PatchStore, split: Split | Path) -> pd.DataFrame:
    """List the patches of validation and test, in the store's order.

    Returns:
        Columns `file,case_id,split,label,row`, and `JOINED` if any case ids share patches.

    Raises:
        EvaluationError: a patch has no case, or a split has one class only.
    """
    from histopipe.data.splitting.membership import split_of_patches

    require_cases(store.index, store.folder)
    table = store.index[["file", "case_id", "label"]].copy()
    table.insert(2, "split", split_of_patches(split, store.index))
    table["row"] = np.arange(len(table))
    table = table[table["split"].isin(EVALUATED_SPLITS)]
    if (joined := joined_cases(store.index.loc[table.index])) is not None:
        table = table.assign(**{JOINED: joined})
    table = table.reset_index(drop=True)
    require_both_classes(table, split)
    return table


def require_cases(index: pd.DataFrame, folder: Path) -> None:
    """Check that every patch of a store has a case, since a patch without one would silently be in no split.

    Raises:
        EvaluationError: a patch has no case.
    """
    nameless = index["case_id"].isna() | (index["case_id"].astype(str).str.strip() == "")
    if nameless.any():
        raise EvaluationError(
            f"{folder}: {int(nameless.sum()):,} patches have no case (first: {index['file'][nameless].iloc[0]}): "
            f"run `histopipe ingest {folder.name}`"
        )


def require_both_classes(table: pd.DataFrame, origin: object) -> None:
    """Check that validation and test have patches of both classes each.

    Args:
        table: columns `split` and `label` of the patches to evaluate.
        origin: the split's file, for the message.

    Raises:
        EvaluationError: a split lacks patches of one class.
    """
    for split in EVALUATED_SPLITS:
        labels = table.loc[table["split"] == split, "label"]
        if not holds_both_classes(labels):
            content = f"only patches of label {labels.iloc[0]}" if len(labels) else "no patches"
            raise EvaluationError(
                f"{origin}: the {split} split has {content}: give it cases of both classes "
                f"(`split.{split}` or `split.scheme` in params.yaml)"
            )


def operating_point(logits: pd.DataFrame, dataset: str, params: Params, store: PatchStore) -> OperatingPoint:
    """Choose calibration and threshold on validation; add what else a served model needs to know."""
    classes = read_store_record(store.folder)["classes"]
    locked = choose_operating_point(logits, params.evaluate.threshold)
    point: OperatingPoint = {
        "temperature": locked["temperature"],
        "offset": locked["offset"],
        "threshold": locked["threshold"],
        "rule": locked["rule"],
        "positive_class": classes[1],
        "negative_class": classes[0],
        "data_set": dataset,
        "patch_size": list(store.patch_size),
        "resized": _is_resized(dataset, params),
    }
    if reading := params.case_reading(dataset):
        point["case_reading"] = reading
    return point


def _is_resized(dataset: str, params: Params) -> bool:
    """Return whether ingest resizes images of other sizes to the stored size; otherwise it pads smaller ones."""
    from histopipe.ingest.datasets import get_dataset, list_datasets

    own = dataset not in list_datasets() or params.dataset(dataset).manifest is not None
    return own or get_dataset(dataset).resized


def predict_other_views(
    network: keras.Model, store: PatchStore, table: pd.DataFrame, params: Params, title: str
) -> dict[str, Numbers]:
    """Predict without averaging over symmetries (`one_view`) or, if the parameters ask for it, with it (`d4`).

    Returns:
        Calibrated probabilities by column; empty if there is no other view.
    """
    from histopipe.networks.logits import finite_logits
    from histopipe.networks.symmetry import averaged_over_symmetries, is_averaged, one_view_network

    if is_averaged(network):
        column, other = "one_view", one_view_network(network)
    elif params.evaluate.symmetries:
        column, other = "d4", averaged_over_symmetries(network)
    else:
        return {}
    logits = finite_logits(other, store, table["row"].to_numpy(), f"evaluate {title}, {column}")
    point = choose_operating_point(table[patch_columns(table)].assign(logit=logits), params.evaluate.threshold)
    return {column: calibration_of(point).apply(logits)}


def tables_by_part(
    table: pd.DataFrame, store: PatchStore, split: Split | Path, params: Params
) -> dict[str, pd.DataFrame]:
    """Compute the test metrics by case and by subgroup; return the tables by file name without its ending."""
    from histopipe.data.splitting.membership import split_of_patches
    from histopipe.evaluation.cases import case_table, colour_clusters
    from histopipe.evaluation.subgroups import patch_groups, subgroup_table

    test = table[table["split"] == "test"].reset_index(drop=True)
    trained_on = np.flatnonzero((split_of_patches(split, store.index) == "train").to_numpy())
    clusters = colour_clusters(store.index, trained_on, STAIN_CLUSTERS, params.seed)
    groups = patch_groups(store.index, test["row"].to_numpy(), clusters, store.patch_size)
    return {
        "cases": case_table(predictions_of(test.drop(columns=JOINED, errors="ignore"), "test"), test["case_id"]),
        "subgroups": subgroup_table(test, groups, params.evaluate.resamples, params.seed),
    }


def write_outputs(
    folder: Path,
    table: pd.DataFrame,
    parts: dict[str, pd.DataFrame],
    point: OperatingPoint,
    results: MetricsRecord,
    architecture: str,
) -> tuple[Evaluation, dict[str, pd.DataFrame]]:
    """Write all files of an evaluation except `metrics.json` into its folder.

    Args:
        folder: folder to write to.
        table: the predictions.
        parts: the result of `tables_by_part`.
        point: the operating point.
        results: content of `metrics.json`.
        architecture: name of the recipe.

    Returns:
        The arguments of `draw_figures`.
    """
    from histopipe.evaluation import curves
    from histopipe.evaluation.figures import Evaluation

    classes = _classes(point)
    test = predictions_of(table, "test")
    tables = {
        "roc": curves.roc_table(test),
        "precision_recall": curves.precision_recall_table(test),
        "confusion": curves.confusion_table(test, classes),
        "calibration": curves.calibration_table(test),
        **parts,
    }
    for name, content in tables.items():
        write_csv(content, folder / f"{name}.csv")
    table.drop(columns=["row", "uncalibrated"]).to_parquet(folder / "predictions.parquet", index=False)
    write_operating_point(folder, point)
    write_text(folder / "classification_report.txt", curves.report_text(test, classes))
    metrics = {**results["test"], "uncalibrated": results["uncalibrated"]["calibration_error"]}
    shown = Evaluation(point["data_set"], architecture, classes, test, metrics, point["threshold"])
    tables["uncalibrated"] = curves.calibration_table(before_calibration(table))
    return shown, tables


def write_reference(path: Path, table: pd.DataFrame, store: PatchStore, split: Split | Path) -> Path | None:
    """Write the profiles that new patches are compared with.

    Args:
        path: the file to write.
        table: the predictions of validation and test.
        store: the store, with colour statistics of every patch.
        split: the split, or its file.

    Returns:
        The file; None if the store's index has no colour statistics.
    """
    from histopipe.data.splitting.membership import split_of_patches

    if not set(COLOURS) <= set(store.index):
        return None
    reference_profiles(store.index, split_of_patches(split, store.index), table).to_parquet(path, index=False)
    return path


def _classes(point: OperatingPoint) -> tuple[str, str]:
    return point["negative_class"], point["positive_class"]


def _example(store: PatchStore, table: pd.DataFrame) -> Patches:
    """Return the first validation patch, since the served model's input example must not come from test."""
    row = table.loc[table["split"] == "validation", "row"].iloc[0]
    example: Patches = store.gather(np.array([row]))[0]
    return example
