"""The epoch loop: train, validate, checkpoint, log."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from histopipe.architectures import build
from histopipe.architectures.blocks import patch_input
from histopipe.augmentation import RandomAffine
from histopipe.errors import TrainingError
from histopipe.loading import PatchBatches
from histopipe.prediction import logit_network, predict_logits
from histopipe.sampling import balanced_weights, epoch_order
from histopipe.training.batch_norm import SAMPLE, SETTLED_STEPS, refresh_batch_norm
from histopipe.training.checkpoint import Progress, all_variables, restore_variables, save_checkpoint
from histopipe.training.devices import Devices, choose_devices, number
from histopipe.training.plan import Training
from histopipe.training.recipe import build_optimizer

if TYPE_CHECKING:
    import keras


def run_epochs(training: Training, progress: Progress, after_epoch: Callable[[Progress], None]) -> keras.Model:
    """Train from where `progress` stands to the recipe's last epoch.

    Args:
        training: what to train.
        progress: is brought up to date after each epoch and saved.
        after_epoch: called when an epoch is safely saved.

    Returns:
        The trained network, without the augmentation.

    Raises:
        TrainingError: the loss is no longer a number.
    """
    devices = choose_devices(training.execution)
    training = devices.shared(training)
    network, trainer = build_training(training, devices)
    logits = logit_network(network)
    if progress.history:
        restore_variables(training.checkpoints, all_variables(trainer))
    for epoch in range(len(progress.history), training.recipe.epochs):
        progress.history.append(_one_epoch(training, trainer, logits, epoch))
        save_checkpoint(training.checkpoints, progress, all_variables(trainer))
        after_epoch(progress)
    return devices.settled(network, lambda: build(training.architecture, **training.recipe.model))


def build_training(training: Training, devices: Devices | None = None) -> tuple[keras.Model, keras.Model]:
    """The network, and the compiled model that augments its input; both share their weights."""
    import keras

    devices = devices or choose_devices(training.execution)
    with devices.building():
        network = devices.joined(build(training.architecture, **training.recipe.model))
        inputs = patch_input()
        augment = RandomAffine(training.recipe.augmentation, training.seed, compiled=devices.jit_compile is True)
        trainer = keras.Model(inputs, network(augment(inputs)))
        trainer.compile(
            optimizer=build_optimizer(training.recipe),
            loss="binary_crossentropy",
            weighted_metrics=[],
            jit_compile=devices.jit_compile,
        )
        trainer.optimizer.build(trainer.trainable_variables)
    return network, trainer


def _one_epoch(training: Training, trainer: keras.Model, logits: keras.Model, epoch: int) -> dict[str, float]:
    """Train and validate once; returns the epoch's row of the history, epochs counted from 1."""
    began = time.perf_counter()
    labels = training.store.index["label"].to_numpy()[training.train_rows]
    weights = balanced_weights(labels) if training.recipe.imbalance == "class_weight" else (1.0, 1.0)
    order = epoch_order(training.train_rows, training.seed, epoch, training.sharers)
    batches = PatchBatches(training.store, order, training.recipe.batch_size, weights)
    name = f"{training.title} epoch {epoch + 1}/{training.recipe.epochs}"
    logs = trainer.fit(batches, shuffle=False, verbose=0, callbacks=[_progress_bar(len(batches), name)]).history
    seconds = time.perf_counter() - began
    loss = float(logs["loss"][-1])
    if not math.isfinite(loss):
        raise TrainingError(
            f"{training.title}: the loss became {loss} in epoch {epoch + 1}: lower the recipe's learning rate"
        )
    if number(trainer.optimizer.iterations) < SETTLED_STEPS:
        refresh_batch_norm(logits, training.store, order[:SAMPLE])
    row = {"epoch": epoch + 1, "train/loss": loss, **_validate(training, logits)}
    print(f"{name}: " + ", ".join(f"{key} {value:.4f}" for key, value in row.items() if "/" in key), flush=True)
    return row | {
        "learning_rate": number(trainer.optimizer.learning_rate),
        "seconds": round(seconds, 3),
        "patches_per_second": round(len(order) / seconds, 1),
    }


def _validate(training: Training, logits: keras.Model) -> dict[str, float]:
    from scipy.special import expit
    from sklearn.metrics import log_loss, roc_auc_score

    labels = training.store.index["label"].to_numpy()[training.validation_rows]
    values = predict_logits(logits, training.store, training.validation_rows)
    if not np.isfinite(values).all():
        raise TrainingError(f"{training.title}: predictions are no longer numbers: lower the recipe's learning rate")
    return {
        "validation/loss": float(log_loss(labels, expit(values), labels=[0, 1])),
        "validation/roc_auc": float(roc_auc_score(labels, values)),
        "validation/accuracy": float(((values >= 0) == labels).mean()),
    }


def _progress_bar(batches: int, name: str) -> Any:
    import keras

    bar = tqdm(total=batches, desc=name, unit="batch", leave=False)
    return keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: bar.update(1), on_train_end=lambda logs: bar.close()
    )
