"""The evaluate stage: threshold and calibration from validation, then one look at test for each trained model."""

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
from histopipe.core.stages.folders import stage_check
from histopipe.core.stages.inputs import StageInputs, current_inputs, rerun_command
from histopipe.core.tables import write_csv
from histopipe.core.training_record import TrainingRecord, read_training_record
from histopipe.core.workers import BackgroundProcess
from histopipe.core.workspace import TRAINING_RECORD, Workspace, stage_name
from histopipe.data.splitting.membership import Split, is_leaky, read_split
from histopipe.data.store import Patches, PatchStore, read_report, require_reading
from histopipe.evaluation.cases import JOINED, joined_cases, patch_columns
from histopipe.evaluation.drift.profiles import REFERENCE_FILE, reference_profiles
from histopipe.evaluation.grading import (
    EVALUATED_SPLITS,
    before_calibration,
    calibration_of,
    evaluate_predictions,
    locked_point,
    predictions_of,
    predictions_table,
)
from histopipe.evaluation.metrics import Numbers
from histopipe.evaluation.record import METRICS_FILE, MetricsRecord
from histopipe.evaluation.thresholds import require_bound

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
    explained: bool = True,
    processes: int = 1,
) -> MetricsRecord:
    """Grade one trained network and log it, ready to serve, into its MLflow run.

    Writes `metrics.json`, `predictions.parquet`, `operating_point.json`, `classification_report.txt`, `cases.csv`,
    `subgroups.csv`, `slides.csv`, the curves as CSV, the figures as PNG, and `reference.parquet`, by which drift is
    told. In `metrics.json` a metric that isn't defined, such as precision where nothing is called positive, is null.
    Predictions of a network that averages over symmetries have a further column `one_view`: the probability without;
    those of another one, where `evaluate.symmetries` asks for it, `d4`: the probability with. What is to be `explained`
    gets what `explain_evaluation` writes. With two `processes`, the second one draws while this one goes on.

    Returns:
        The content of `metrics.json`.

    Raises:
        EvaluationError: the network is missing, can't be loaded, was trained on another split or has seen test cases;
            predictions aren't numbers; a patch has no case; a split has one class only; `evaluate.threshold` wants a
            bound that so few validation cases can't give.
        ChangedInputError: what is graded, or how, changed meanwhile.
        TrackingAwayError: MLflow is away, which is looked at before anything is predicted, or breaks off.
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
        _require_gradable(store, split, record, workspace.training_stage(dataset, architecture), params)
        logits = predict_splits(network, store, split, f"{dataset} {architecture}")
        point = operating_point(logits, dataset, params, store)
        table = predictions_table(logits, point)
        (figures := folder / "figures").mkdir()
        drawing.start(draw_slides_of_store, table[table.split == "test"], store.folder, point, params.evaluate, folder)
        table = table.assign(**other_views(network, store, table, params, f"{dataset} {architecture}"))
        results = evaluate_predictions(table, point, record, params)
        reference = write_reference(folder / REFERENCE_FILE, table, store, split)
        shown, tables = write_outputs(folder, table, divided(table, store, split, params), point, results, architecture)
        drawing.start(draw_figures, shown, tables, figures)
        if explained:
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


def _require_gradable(store: PatchStore, split: Split, record: TrainingRecord, stage: str, params: Params) -> None:
    graded = patches_to_evaluate(store, split)
    require_unseen(record, graded, split, stage)
    require_bound(params.evaluate.threshold, graded)


def _checked_inputs(
    dataset: str, architecture: str, params: Params, workspace: Workspace
) -> tuple[StageInputs, Split, TrainingRecord]:
    """Read the split and the training's record, and see that both belong together and that MLflow can be asked."""
    from histopipe.tracking.stores import require_server, tracking_uri

    files = [workspace.split(dataset), workspace.store(dataset), workspace.model(dataset, architecture)]
    inputs = current_inputs(stage_name("evaluate", dataset, architecture), workspace, files)
    require_reading(workspace.store(dataset), params.case_reading(dataset))
    split = read_split(workspace.split(dataset))
    record = read_run(dataset, architecture, workspace, split)
    require_server(tracking_uri(workspace))
    return inputs, split, record


def draw_slides_of_store(
    table: pd.DataFrame, store: Path, point: OperatingPoint, params: EvaluateParams, folder: Path
) -> None:
    """As `draw_slides`, of a store that another process opened: its arrays can't be handed over."""
    from histopipe.evaluation.slide_figures import draw_slides

    draw_slides(table, PatchStore.open(store), point, params, folder)


def read_run(dataset: str, architecture: str, workspace: Workspace, split: Split) -> TrainingRecord:
    """What `train` left behind, if it was made with the split that is to be graded.

    Raises:
        EvaluationError: it was made with another one, so test cases may have been trained on.
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
    """Check that no test case is among those that a network was trained or validated on.

    A split that divides patches instead of cases shares them by its nature; its runs are tagged leaky.

    Args:
        record: of the training.
        table: what is to be graded, as `patches_to_evaluate` gives it.
        split: that the table was made with.
        stage: that trains the network.

    Raises:
        EvaluationError: one is; the first is named.
    """
    if is_leaky(split.table):
        return
    listed = [*(record.get("train_cases") or ()), *(record.get("validation_cases") or ())]
    seen = {normal_id(str(case)) for case in listed}
    tested = set(table.loc[table["split"] == "test", "case_id"].astype(str).map(normal_id))
    if shared := sorted(tested & seen):
        raise EvaluationError(
            f"{split}: {len(shared)} of {len(tested)} test cases were trained or validated on (first: {shared[0]}), "
            f"as the network's run.json says: run `dvc repro --force --single-item {stage}`"
        )


def predict_splits(network: keras.Model, store: PatchStore, split: Split | Path, title: str) -> pd.DataFrame:
    """Predict validation and test.

    Returns:
        Columns `file,case_id,split,label,logit,row` (place in the store's index), in the store's order.

    Raises:
        EvaluationError: a patch has no case, a split has one class only, or predictions aren't numbers.
    """
    from histopipe.networks.logits import finite_logits

    table = patches_to_evaluate(store, split)
    table.insert(4, "logit", finite_logits(network, store, table["row"].to_numpy(), f"evaluate {title}"))
    return table


def patches_to_evaluate(store: PatchStore, split: Split | Path) -> pd.DataFrame:
    """Columns `file,case_id,split,label,row` of validation and test, in the store's order; `JOINED` where ids are.

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
    """Check that every patch of a store has a case: one without would be in no split, and silently left out.

    Raises:
        EvaluationError: one has none.
    """
    nameless = index["case_id"].isna() | (index["case_id"].astype(str).str.strip() == "")
    if nameless.any():
        raise EvaluationError(
            f"{folder}: {int(nameless.sum()):,} patches have no case (first: {index['file'][nameless].iloc[0]}): "
            f"run `histopipe ingest {folder.name}`"
        )


def require_both_classes(table: pd.DataFrame, origin: object) -> None:
    """Check that each split has both classes; `origin` is the split's file.

    Raises:
        EvaluationError: one has not.
    """
    for split in EVALUATED_SPLITS:
        labels = table.loc[table["split"] == split, "label"]
        if not holds_both_classes(labels):
            found = f"only patches of label {labels.iloc[0]}" if len(labels) else "no patches"
            raise EvaluationError(
                f"{origin}: the {split} split has {found}: give it cases of both classes "
                f"(`split.{split}` or `split.scheme` in params.yaml)"
            )


def operating_point(logits: pd.DataFrame, dataset: str, params: Params, store: PatchStore) -> OperatingPoint:
    """Calibration and threshold, from validation alone, with what else a served model must know."""
    classes = read_report(store.folder)["classes"]
    locked = locked_point(logits, params.evaluate.threshold)
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
    """Whether ingest resizes images of other sizes to the stored one; otherwise it pads smaller ones."""
    from histopipe.ingest.datasets import get_dataset, list_datasets

    own = dataset not in list_datasets() or params.dataset(dataset).manifest is not None
    return own or get_dataset(dataset).resized


def other_views(
    network: keras.Model, store: PatchStore, table: pd.DataFrame, params: Params, title: str
) -> dict[str, Numbers]:
    """Probabilities without the averaging over symmetries (`one_view`) or, on request, with it (`d4`), by column."""
    from histopipe.networks.logits import finite_logits
    from histopipe.networks.symmetry import averaged_over_symmetries, is_averaged, one_view_network

    if is_averaged(network):
        column, other = "one_view", one_view_network(network)
    elif params.evaluate.symmetries:
        column, other = "d4", averaged_over_symmetries(network)
    else:
        return {}
    logits = finite_logits(other, store, table["row"].to_numpy(), f"evaluate {title}, {column}")
    point = locked_point(table[patch_columns(table)].assign(logit=logits), params.evaluate.threshold)
    return {column: calibration_of(point).apply(logits)}


def divided(table: pd.DataFrame, store: PatchStore, split: Split | Path, params: Params) -> dict[str, pd.DataFrame]:
    """The test split by case and by subgroup, under the names of their files."""
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
    """Write the tables and all else but `metrics.json` into `folder`; `parts` as `divided` gives them.

    Returns:
        What `draw_figures` draws.
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
    """Write the profiles that new patches are compared with; None where the store's index has no colours.

    Args:
        path: the file to write.
        table: the predictions of validation and test.
        store: with colour statistics of every patch.
        split: the split, or its file.
    """
    from histopipe.data.splitting.membership import split_of_patches

    if not set(COLOURS) <= set(store.index):
        return None
    reference_profiles(store.index, split_of_patches(split, store.index), table).to_parquet(path, index=False)
    return path


def _classes(point: OperatingPoint) -> tuple[str, str]:
    return point["negative_class"], point["positive_class"]


def _example(store: PatchStore, table: pd.DataFrame) -> Patches:
    """The first validation patch: the served model's input example must not come from test."""
    row = table.loc[table["split"] == "validation", "row"].iloc[0]
    example: Patches = store.gather(np.array([row]))[0]
    return example
