"""The optimizer, learning-rate schedule and loss that a recipe names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from histopipe.core.errors import TrainingError, one_line
from histopipe.core.params import OptimizerParams, RecipeParams, ScheduleParams

if TYPE_CHECKING:
    import keras

METRIC = "validation/roc_auc"  # decides which epoch is the best

HistoryRow = dict[str, float]


def build_optimizer(recipe: RecipeParams, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """Build the recipe's optimizer and learning-rate schedule, averaging weights if the recipe keeps the average.

    Raises:
        TrainingError: the optimizer doesn't take one of its options.
    """
    kinds = optimizer_kinds()
    assert recipe.optimizer is not None  # checked with the parameters: no classifier, so an optimizer
    chosen: OptimizerParams = recipe.optimizer
    rate = build_schedule(recipe.schedule, chosen.learning_rate, recipe.epochs, steps_per_epoch)
    average: dict[str, float] = {}
    if recipe.keep == "average":
        average = {"use_ema": True, "ema_momentum": average_momentum(recipe, recipe.epochs * steps_per_epoch)}
    try:
        optimizer = kinds[chosen.name](learning_rate=rate, **chosen.options, **average)
    except (ValueError, TypeError) as problem:
        reason = one_line(problem, 200)
        raise TrainingError(f"the recipe's optimizer.options don't suit {chosen.name}: {reason}") from None
    if chosen.name == "adamw":  # decay is for kernels; scales and offsets have no reason to be near 0
        optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    return optimizer


def optimizer_kinds() -> dict[str, type[keras.optimizers.Optimizer]]:
    """Return Keras' optimizers by their names in recipes; on the TensorFlow backend with fused updates."""
    import keras

    kinds = {
        "adagrad": keras.optimizers.Adagrad,
        "sgd": keras.optimizers.SGD,
        "adam": keras.optimizers.Adam,
        "adamw": keras.optimizers.AdamW,
    }
    if keras.backend.backend() == "tensorflow":
        from histopipe.training.fused_optimizers import FusedAdam, FusedAdamW, FusedSGD

        kinds |= {"sgd": FusedSGD, "adam": FusedAdam, "adamw": FusedAdamW}
    return kinds


def average_momentum(recipe: RecipeParams, steps: int) -> float:
    """Return the recipe's momentum, lowered where the average would cover more than a tenth of a short training.

    Keras starts the average at the weights after the first step, which are almost random, and doesn't correct for them:
    after 96 steps with .995 they would make up three fifths of the average.
    """
    return max(0.0, min(recipe.average_momentum, 1 - 10 / steps))


def build_schedule(
    schedule: ScheduleParams, rate: float, epochs: int, steps_per_epoch: int
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """Build the learning rate by step; a plain number where it doesn't depend on the step alone.

    Args:
        schedule: kind and settings of the schedule.
        rate: initial learning rate (`cosine`: the rate after warm-up).
        epochs: epochs of the whole training, over which `linear` and `cosine` fall.
        steps_per_epoch: batches in one epoch.
    """
    from keras.optimizers import schedules

    steps = epochs * steps_per_epoch
    if schedule.name == "inverse_time":
        return schedules.InverseTimeDecay(rate, decay_steps=1, decay_rate=schedule.decay)
    if schedule.name == "linear":
        return schedules.PolynomialDecay(rate, decay_steps=steps, end_learning_rate=0.0)
    if schedule.name == "cosine":
        # a training capped to a few epochs still spends most of them falling
        rising = min(round(schedule.warmup_epochs * steps_per_epoch), steps // 3)
        if rising == 0:
            return schedules.CosineDecay(rate, decay_steps=steps)
        return schedules.CosineDecay(0.0, decay_steps=steps - rising, warmup_target=rate, warmup_steps=rising)
    return rate


def build_loss(recipe: RecipeParams) -> keras.losses.Loss:
    """Build cross-entropy with the recipe's label smoothing, or its focal form.

    The focal form is that of Lin et al. 2017 with gamma 2, alpha .25.
    """
    import keras

    if recipe.imbalance == "focal":
        return keras.losses.BinaryFocalCrossentropy(
            apply_class_balancing=True, alpha=0.25, gamma=2.0, label_smoothing=recipe.label_smoothing
        )
    return keras.losses.BinaryCrossentropy(label_smoothing=recipe.label_smoothing)


def plateau_rate(history: Sequence[HistoryRow], schedule: ScheduleParams, rate: float) -> float:
    """Compute the next epoch's learning rate under `plateau`, from the epochs so far, so that resuming keeps it."""
    best, flat = float("-inf"), 0
    for row in history:
        best, flat = (row[METRIC], 0) if row[METRIC] > best else (best, flat + 1)
        if flat == schedule.patience:
            rate, flat = max(rate * schedule.factor, schedule.floor), 0
    return rate


def has_stopped(history: Sequence[HistoryRow], patience: int | None) -> bool:
    """Return whether validation has not improved for `patience` epochs; never without a patience."""
    return patience is not None and len(history) - best_epoch(history) >= patience


def best_epoch(history: Sequence[HistoryRow]) -> int:
    """Return the first epoch, counted from 1, with the highest validation AUC; 0 before any."""
    if not history:
        return 0
    return 1 + max(range(len(history)), key=lambda epoch: (history[epoch][METRIC], -epoch))
