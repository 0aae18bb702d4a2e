"""The epoch loop: train, validate, checkpoint, log."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from histopipe.core.errors import TrainingError
from histopipe.data.sampling import balanced_order, balanced_weights, epoch_order
from histopipe.data.store import Rows
from histopipe.networks.architectures import build
from histopipe.networks.architectures.blocks import patch_input
from histopipe.networks.backend import is_out_of_memory
from histopipe.networks.prediction import logit_network, predict_logits
from histopipe.training.augmentation import augment
from histopipe.training.batch_norm import SAMPLE, SETTLED_STEPS, refresh_batch_norm, statistics_batch
from histopipe.training.checkpoint import (
    CHECKPOINT_FILE,
    DamagedCheckpoint,
    Progress,
    all_variables,
    restore_variables,
    save_checkpoint,
    warn_of_damage,
)
from histopipe.training.devices import Devices, choose_devices, number
from histopipe.training.kernels import quicker_kernels
from histopipe.training.loading import PatchBatches, for_fit
from histopipe.training.optimization import best_epoch, build_loss, build_optimizer, has_stopped, plateau_rate
from histopipe.training.plan import Training
from histopipe.training.start import load_start
from histopipe.training.validation_metrics import validation_metrics

if TYPE_CHECKING:
    import keras


def run_epochs(training: Training, progress: Progress, after_epoch: Callable[[Progress], None]) -> keras.Model:
    """Train the remaining epochs of the recipe, or until the training stops early.

    Args:
        training: training to run.
        progress: progress so far; updated and saved after each epoch.
        after_epoch: called after an epoch has been saved.

    Returns:
        The network with the weights that the recipe keeps, without the augmentation.

    Raises:
        TrainingError: the loss is no longer a number.
    """
    devices = choose_devices(training.execution)
    training = devices.share(training)
    network, trainer = build_training(training, devices)
    progress.notes["weights"] = load_start(training, network)
    kept = _restore(training, network, trainer, progress) if progress.history else []
    with quicker_kernels(network):
        kept = _train_remaining_epochs(training, network, trainer, progress, kept, after_epoch)
    if kept:
        network.set_weights(kept)
    return devices.to_saved(network, lambda: build(training.architecture, **training.recipe.model))


def _restore(training: Training, network: keras.Model, trainer: keras.Model, progress: Progress) -> list[NDArray[Any]]:
    """Resume from the checkpoint, or start over where it doesn't fit; return the weights kept so far."""
    try:
        return restore_variables(training.checkpoints, all_variables(trainer), network.weights)
    except DamagedCheckpoint as problem:
        warn_of_damage(training.checkpoints / CHECKPOINT_FILE, problem)
        progress.history.clear()
        return []


def _train_remaining_epochs(
    training: Training,
    network: keras.Model,
    trainer: keras.Model,
    progress: Progress,
    kept: list[NDArray[Any]],
    after_epoch: Callable[[Progress], None],
) -> list[NDArray[Any]]:
    """Train the remaining epochs; return the weights that the recipe keeps, empty for the last ones."""
    logits = logit_network(network)
    for epoch in range(len(progress.history), training.recipe.epochs):
        if has_stopped(progress.history, training.recipe.early_stopping):
            break
        trained = _train_epoch(training, trainer, progress, epoch)
        with _averaged_weights(training, trainer):
            progress.history.append(_validate(training, trainer, logits, trained))
            if _is_kept(training, progress):
                kept = network.get_weights()
        save_checkpoint(training.checkpoints, progress, all_variables(trainer), kept)
        after_epoch(progress)
    return kept


def _is_kept(training: Training, progress: Progress) -> bool:
    """Return whether the recipe keeps the weights of the latest epoch, averaged or not, as far as known."""
    latest = len(progress.history)
    keep = training.recipe.keep
    return keep == "average" or (keep == "best" and best_epoch(progress.history) == latest)


def build_training(training: Training, devices: Devices | None = None) -> tuple[keras.Model, keras.Model]:
    """Build the network, and the compiled model that augments its input; both share their weights."""
    import keras

    devices = devices or choose_devices(training.execution)
    steps = math.ceil(len(training.train_rows) / training.recipe.batch_size)
    with devices.building():
        network = devices.synchronize(build(training.architecture, **training.recipe.model))
        inputs = patch_input()
        compiled = devices.jit_compile is True
        augmented = augment(inputs, training.recipe.augmentation, training.seed, compiled)
        trainer = keras.Model(inputs, network(augmented))
        trainer.compile(
            optimizer=build_optimizer(training.recipe, steps),
            loss=build_loss(training.recipe),
            weighted_metrics=[],
            jit_compile=devices.jit_compile,
        )
        trainer.optimizer.build(trainer.trainable_variables)
    return network, trainer


def _train_epoch(training: Training, trainer: keras.Model, progress: Progress, epoch: int) -> dict[str, float]:
    """Train one epoch; return its part of the history's row, epochs counted from 1."""
    began = time.perf_counter()
    recipe = training.recipe
    if recipe.schedule.name == "plateau" and recipe.optimizer:
        trainer.optimizer.learning_rate = plateau_rate(
            progress.history, recipe.schedule, recipe.optimizer.learning_rate
        )
    batches = _batches(training, epoch)
    loss = _fit(trainer, batches, _epoch_name(training, epoch))
    seconds = time.perf_counter() - began
    if not math.isfinite(loss):
        raise TrainingError(
            f"{training.title}: the loss became {loss} in epoch {epoch + 1}: lower the recipe's learning rate"
        )
    return {
        "epoch": epoch + 1,
        "train/loss": loss,
        "learning_rate": number(trainer.optimizer.learning_rate),
        "seconds": round(seconds, 3),
        "patches_per_second": round(len(training.train_rows) / seconds, 1),
    }


def _fit(trainer: keras.Model, batches: PatchBatches, name: str) -> float:
    """Train on all batches, until the loss is no longer a number; return the mean loss."""
    import keras

    callbacks = [_progress_bar(len(batches), name), keras.callbacks.TerminateOnNaN(raise_error=False)]
    try:
        with _keep_current_weights(trainer.optimizer) as keep_current:
            logs = trainer.fit(for_fit(batches), shuffle=False, verbose=0, callbacks=[*callbacks, keep_current]).history
    except Exception as problem:
        if not is_out_of_memory(problem):
            raise
        raise TrainingError(f"{name}: out of memory: lower the recipe's batch_size, image size or width") from None
    return float(logs["loss"][-1])


@contextmanager
def _keep_current_weights(optimizer: Any) -> Iterator[keras.callbacks.Callback]:
    """Yield a callback that stops Keras from replacing the current weights by their average after `fit`.

    From the last step to the end of `fit`, averaging is switched off; the steps still update the average.
    """
    import keras

    averages = optimizer.use_ema
    try:
        yield keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: setattr(optimizer, "use_ema", False))
    finally:
        optimizer.use_ema = averages


def _epoch_name(training: Training, epoch: int) -> str:
    return f"{training.title} epoch {epoch + 1}/{training.recipe.epochs}"


def _order(training: Training, epoch: int) -> Rows:
    order = epoch_order(training.train_rows, training.seed, epoch, training.sharers)
    if training.recipe.imbalance == "balanced_batches":
        return balanced_order(order, training.store.index["label"].to_numpy()[order])
    return order


def _batches(training: Training, epoch: int) -> PatchBatches:
    labels = training.store.index["label"].to_numpy()[training.train_rows]
    weights = balanced_weights(labels) if training.recipe.imbalance == "class_weight" else (1.0, 1.0)
    return PatchBatches(training.store, _order(training, epoch), training.recipe.batch_size, weights)


def _validate(
    training: Training, trainer: keras.Model, logits: keras.Model, trained: dict[str, float]
) -> dict[str, float]:
    """Validate the network; return the epoch's whole row of the history, training's part included."""
    epoch = int(trained["epoch"]) - 1
    if number(trainer.optimizer.iterations) < SETTLED_STEPS or training.recipe.keep == "average":
        batch_size = statistics_batch(training.image_size, training.recipe.batch_size)
        refresh_batch_norm(logits, training.store, _order(training, epoch)[:SAMPLE], batch_size)
    metrics = compute_validation_metrics(training, logits)
    row = {"epoch": trained["epoch"], "train/loss": trained["train/loss"], **metrics}
    text = ", ".join(f"{key} {value:.4f}" for key, value in row.items() if "/" in key)
    print(f"{_epoch_name(training, epoch)}: {text}", flush=True)
    return row | trained


def compute_validation_metrics(training: Training, logits: keras.Model) -> dict[str, float]:
    """Compute loss, ROC AUC and accuracy on validation.

    Raises:
        TrainingError: a prediction is no longer a number.
    """
    labels = training.store.index["label"].to_numpy()[training.validation_rows]
    values = predict_logits(logits, training.store, training.validation_rows)
    if not np.isfinite(values).all():
        raise TrainingError(f"{training.title}: predictions are no longer numbers: lower the recipe's learning rate")
    return validation_metrics(labels, values)


@contextmanager
def _averaged_weights(training: Training, trainer: keras.Model) -> Iterator[None]:
    """Give the model its averaged weights inside the block, if the recipe keeps those; restore the others."""
    if training.recipe.keep != "average":
        yield
        return
    current = trainer.get_weights()
    trainer.optimizer.finalize_variable_values(trainer.trainable_variables)
    try:
        yield
    finally:
        trainer.set_weights(current)


def _progress_bar(batches: int, name: str) -> Any:
    import keras

    bar = tqdm(total=batches, desc=name, unit="batch", leave=False)
    return keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: bar.update(1), on_train_end=lambda logs: bar.close()
    )
