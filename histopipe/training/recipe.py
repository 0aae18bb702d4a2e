"""What a recipe comes to once the `quick` caps apply, and the Keras objects it names."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from histopipe.errors import TrainingError
from histopipe.params import OptimizerParams, Params, QuickParams, RecipeParams, ScheduleParams

if TYPE_CHECKING:
    import keras


def effective_recipe(params: Params, architecture: str) -> RecipeParams:
    """The recipe with the caps of `quick` applied; the recipe itself where there are none."""
    recipe = params.recipe(architecture)
    quick = params.quick or QuickParams()
    model = dict(recipe.model)
    if quick.max_image_size is not None and "image_size" in model:
        model["image_size"] = min(int(model["image_size"]), quick.max_image_size)
    epochs = min(recipe.epochs, quick.max_epochs or recipe.epochs)
    return recipe.model_copy(update={"model": model, "epochs": epochs})


def is_capped(params: Params, architecture: str, patches: int) -> bool:
    """Whether `quick` makes this training, over so many patches, less than its recipe."""
    if params.quick is None:
        return False
    limit = params.quick.max_patches
    return effective_recipe(params, architecture) != params.recipe(architecture) or (
        limit is not None and patches > limit
    )


def recipe_digest(params: Params, architecture: str) -> str:
    """Digest of all parameters that decide what a training gives."""
    decisive = {
        "recipe": effective_recipe(params, architecture).model_dump(),
        "quick": params.quick.model_dump() if params.quick else None,
        "seed": params.seed,
        "deterministic": params.train.deterministic,
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def build_optimizer(recipe: RecipeParams) -> keras.optimizers.Optimizer:
    """The recipe's optimizer with its learning-rate schedule.

    Raises:
        TrainingError: the optimizer doesn't take one of its options.
    """
    import keras

    kinds = {
        "adagrad": keras.optimizers.Adagrad,
        "sgd": keras.optimizers.SGD,
        "adam": keras.optimizers.Adam,
        "adamw": keras.optimizers.AdamW,
    }
    chosen: OptimizerParams = recipe.optimizer
    rate = _schedule(recipe.schedule, chosen.learning_rate)
    try:
        return kinds[chosen.name](learning_rate=rate, **chosen.options)
    except (ValueError, TypeError) as problem:
        reason = " ".join(str(problem).split())[:200]
        raise TrainingError(f"the recipe's optimizer.options don't suit {chosen.name}: {reason}") from None


def _schedule(schedule: ScheduleParams, rate: float) -> float | keras.optimizers.schedules.LearningRateSchedule:
    import keras

    if schedule.name == "constant":
        return rate
    return keras.optimizers.schedules.InverseTimeDecay(rate, decay_steps=1, decay_rate=schedule.decay)
