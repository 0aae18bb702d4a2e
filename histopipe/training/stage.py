"""The train stage, which sees the training and validation splits only."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd

from histopipe.core.addresses import public_source
from histopipe.core.cases.readings import READING, reading_entry
from histopipe.core.errors import TrainingError
from histopipe.core.files import file_digest, replaced_folder
from histopipe.core.lineage import lineage_tags, output_hash, versions
from histopipe.core.params import Params
from histopipe.core.stages.folders import stage_check
from histopipe.core.stages.inputs import StageInputs, current_inputs
from histopipe.core.training_record import DataRecord, TrainingRecord, write_training_record
from histopipe.core.workspace import TRAINING_RECORD, Workspace
from histopipe.data.leakage import leaky_tags
from histopipe.data.store import INDEX_FILE, PatchStore, Rows
from histopipe.networks.architectures import require_architecture
from histopipe.networks.backend import backend_name, grow_gpu_memory
from histopipe.networks.symmetry import averaged_over_symmetries
from histopipe.tracking.logging import log_file, log_metrics, set_tags
from histopipe.tracking.provenance import data_of_training
from histopipe.tracking.runs import TRAINED, log_dataset_inputs, log_epochs, log_params, training_run
from histopipe.tracking.stores import experiment_name
from histopipe.training.checkpoint import Progress, forget_finished, load_progress, mark_finished, training_key
from histopipe.training.devices import choose_devices
from histopipe.training.effort import effort
from histopipe.training.optimization import best_epoch
from histopipe.training.plan import Training, plan_training
from histopipe.training.pooled_features import discard_features
from histopipe.training.recipe import recipe_digest

MODEL_FILE = "model.keras"

if TYPE_CHECKING:
    import keras


def train(
    dataset: str,
    architecture: str,
    params: Params,
    workspace: Workspace,
    after_epoch: Callable[[Progress], None] | None = None,
) -> TrainingRecord:
    """Train one recipe, resuming where a killed training stopped.

    Writes `model.keras`, `history.csv`, `history.png` and `run.json`.

    Args:
        dataset: name of the data set.
        architecture: name of the recipe.
        params: parameters with the recipe.
        workspace: workspace to read from and write to.
        after_epoch: called when an epoch is saved and logged; an exception from it ends the training.

    Returns:
        The content of `run.json`.

    Raises:
        TrainingError: there are no patches to train on, the backend can't be deterministic, or the loss is no longer a
            number.
        ChangedInputError: parameters, split, data or code changed meanwhile; the checkpoint keeps the trained network.
    """
    inputs = _inputs(dataset, architecture, workspace)
    lineage = lineage_tags(workspace, dataset)
    training = plan_training(dataset, architecture, params, workspace)
    made_from = _data(training, workspace)
    require_architecture(training.architecture)
    grow_gpu_memory()
    seed_everything(params)
    key = training_key(_digest(training, params), workspace, dataset, training.architecture, training.split_digest)
    forget_finished(training.checkpoints, _recorded(workspace, dataset, architecture))
    progress = load_progress(training.checkpoints, key)
    tags = lineage | _tags(training, params) | {"training_key": key}
    if training.recipe.classifier:
        from histopipe.training.features import fit_classifier as run
    else:
        from histopipe.training.loop import run_epochs as run  # loads TensorFlow, after all checks

    with training_run(workspace, dataset, architecture, progress.run_id, tags) as run_id:
        progress.run_id = run_id
        _announce(training, progress)
        _log_start(training, params, workspace, lineage)
        network = run(training, progress, _report_epochs(run_id, inputs, after_epoch))
        if training.recipe.test_time == "d4":
            network = averaged_over_symmetries(network)
        log_epochs(run_id, progress.history)
        record = _record(training, params, run_id, progress, network, lineage, made_from)
        _write(training, workspace, progress, network, record, inputs)
        _log_end(training, workspace, record)
    mark_finished(training.checkpoints, workspace.model(dataset, architecture) / TRAINING_RECORD)
    discard_features(training.checkpoints)
    return record


def _inputs(dataset: str, architecture: str, workspace: Workspace) -> StageInputs:
    files = [workspace.split(dataset), workspace.store(dataset), workspace.weights(architecture)]
    return current_inputs(workspace.training_stage(dataset, architecture), workspace, files)


def _report_epochs(
    run_id: str, inputs: StageInputs, after_epoch: Callable[[Progress], None] | None
) -> Callable[[Progress], None]:
    def report_epoch(progress: Progress) -> None:
        log_epochs(run_id, progress.history)
        inputs.warn_if_changed()
        if after_epoch:
            after_epoch(progress)

    return report_epoch


def _recorded(workspace: Workspace, dataset: str, architecture: str) -> str | None:
    """Return the hash of the last training's record in `dvc.lock`."""
    path = workspace.training_record(dataset, architecture).relative_to(workspace.root)
    return output_hash(workspace, workspace.training_stage(dataset, architecture), path.as_posix())


def seed_everything(params: Params) -> None:
    """Seed Python, NumPy and Keras; with `train.deterministic`, also forbid kernels that vary from run to run.

    Raises:
        TrainingError: `train.deterministic` is set and the backend has no such switch.
    """
    import keras

    keras.utils.set_random_seed(params.seed)
    if not params.train.deterministic:
        return
    if backend_name() != "tensorflow":
        raise TrainingError(
            f"train.deterministic: true works on TensorFlow alone, and Keras runs on {backend_name()}: "
            "set KERAS_BACKEND=tensorflow, or deterministic: false in params.yaml"
        )
    import tensorflow as tf

    tf.config.experimental.enable_op_determinism()


def _tags(training: Training, params: Params) -> dict[str, str]:
    tags = {"split_scheme": params.split.scheme, "source": public_source(params.dataset(training.dataset).source)}
    tags |= {"quick": "true"} if training.capped else {}
    tags |= {"unlisted_train": "true"} if params.split.adds_unlisted else {}
    if reading := params.case_reading(training.dataset):
        tags[READING] = reading
    if training.weights:
        tags |= {f"weights_{key}": value for key, value in training.weights.summary.items()}
    return tags | leaky_tags(training.leaky)


def _announce(training: Training, progress: Progress) -> None:
    done, epochs = len(progress.history), training.recipe.epochs
    start = f"resuming after epoch {done} of {epochs}" if done else f"{epochs} epochs"
    if training.recipe.classifier:
        start = f"a {training.recipe.classifier.name} on frozen features" + (", resumed" if done else "")
    counts = f"{len(training.train_rows):,} training and {len(training.validation_rows):,} validation patches"
    print(f"{training.title}: {start}, {counts}", flush=True)


def _log_start(training: Training, params: Params, workspace: Workspace, lineage: Mapping[str, str]) -> None:
    log_params(
        {
            **training.recipe.model_dump(exclude={"architecture"}),
            "seed": params.seed,
            "deterministic": params.train.deterministic,
            **choose_devices(training.execution).summary(),
            "train_patches": len(training.train_rows),
            "validation_patches": len(training.validation_rows),
        }
    )
    store, split = workspace.store(training.dataset), workspace.split(training.dataset)
    inputs = {
        "training": (store, lineage.get("dvc_store") or file_digest(store / INDEX_FILE)),
        "split": (split, lineage.get("dvc_split") or training.split_digest),
    }
    log_dataset_inputs(
        {role: (path.relative_to(workspace.root).as_posix(), digest) for role, (path, digest) in inputs.items()}
    )


def _record(
    training: Training,
    params: Params,
    run_id: str,
    progress: Progress,
    network: keras.Model,
    lineage: Mapping[str, str],
    made_from: DataRecord,
) -> TrainingRecord:
    """Build the record that later stages read."""
    return {
        "run_id": run_id,
        "experiment": experiment_name(training.dataset),
        "dataset": training.dataset,
        "architecture": training.name,
        "parameters": network.count_params(),
        "recipe_digest": _digest(training, params),
        "split_digest": training.split_digest,
        "split_scheme": params.split.scheme,
        **reading_entry(params.case_reading(training.dataset)),
        "quick": params.quick.model_dump(exclude_none=True) if params.quick and training.capped else None,
        "leaky": training.leaky,
        "unlisted_train": params.split.adds_unlisted,
        **progress.notes,
        "epochs": len(progress.history),
        "best_epoch": best_epoch(progress.history),
        "effort": effort(progress.history),
        "lineage": dict(lineage),
        "versions": versions(),
        "unknown_before": bool(training.weights and not training.weights.cases_known),
        "seen_before": (training.weights.seen if training.weights else None) or {},
        "samples_before": (training.weights.samples if training.weights else None) or [],
        "train_cases": _cases(training.store, training.train_rows),
        "validation_cases": training.validation_cases,  # uncapped: threshold and calibration use all of them
        "data": made_from,
    }


def _data(training: Training, workspace: Workspace) -> DataRecord:
    """Describe the data of the training, by which later stages recognise the model's data."""
    cases = [*_cases(training.store, training.train_rows), *training.validation_cases]
    made_from = data_of_training(training.dataset, cases, training.store.index, workspace)
    return replace(made_from, capped=training.capped).as_json()


def _digest(training: Training, params: Params) -> str:
    return recipe_digest(params, training.name, training.weights.sha256 if training.weights else None)


def _cases(store: PatchStore, rows: Rows) -> list[str]:
    return sorted(store.index["case_id"].iloc[rows].unique())


def _write(
    training: Training,
    workspace: Workspace,
    progress: Progress,
    network: keras.Model,
    record: TrainingRecord,
    inputs: StageInputs,
) -> None:
    """Write the training's outputs, unless their inputs have changed meanwhile."""
    from histopipe.training.figures import plot_history

    history = pd.DataFrame(progress.history)
    with replaced_folder(workspace.model(training.dataset, training.name), stage_check("train")) as folder:
        network.save(folder / MODEL_FILE)
        history.to_csv(folder / "history.csv", index=False)
        plot_history(history, training.title, folder / "history.png")
        write_training_record(folder, record)
        inputs.require_unchanged(_kept(training, workspace))


def _kept(training: Training, workspace: Workspace) -> str:
    folder = os.path.relpath(training.checkpoints, workspace.root)
    return (
        f"the finished training stays in {folder}: put back what changed, and the same command ends within a minute "
        "without training; as it is now, the same command trains again from the start"
    )


def _log_end(training: Training, workspace: Workspace, record: TrainingRecord) -> None:
    folder = workspace.model(training.dataset, training.name)
    for name in ("history.csv", "history.png"):
        log_file(folder / name, "plots")
    effort_record = record["effort"]
    metrics = {"seconds": effort_record["seconds"], "peak_memory_mb": effort_record["peak_memory_mb"]}
    if effort_record["patches_per_second"] is not None:
        metrics["patches_per_second"] = effort_record["patches_per_second"]
    log_metrics({f"train/{name}": value for name, value in metrics.items()} | {"parameters": record["parameters"]})
    set_tags({TRAINED: "true"})
