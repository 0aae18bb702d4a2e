"""A recipe with the data set's image size and the `quick` caps applied."""

from __future__ import annotations

import hashlib
import json

from histopipe.core.params import Params, QuickParams, RecipeParams


def effective_recipe(params: Params, name: str, image_size: int) -> RecipeParams:
    """Return the recipe as it is trained: with the data set's image size where it sets none, and the `quick` caps.

    Args:
        params: parameters with recipe and caps.
        name: name of the recipe.
        image_size: side of the data set's patches in the network's input, in pixels.
    """
    recipe = params.recipe(name)
    quick = params.quick or QuickParams()
    caps = {
        "model": {**recipe.model, "image_size": _capped_size(recipe.model.get("image_size", image_size), quick)},
        "epochs": min(recipe.epochs, quick.max_epochs or recipe.epochs),
        "weights": params.weights(name),
    }
    return recipe.model_copy(update=caps)


def _capped_size(size: float | str, quick: QuickParams) -> float | str:
    """Apply the cap to an image size; a text passes, since the architecture's check reports it."""
    return size if isinstance(size, str) or quick.max_image_size is None else min(size, quick.max_image_size)


def is_capped(params: Params, name: str, image_size: int, patches: int) -> bool:
    """Return whether `quick` makes a training over that many patches smaller than its recipe."""
    if params.quick is None:
        return False
    limit = params.quick.max_patches
    uncapped = params.model_copy(update={"quick": None})
    shortened = effective_recipe(params, name, image_size) != effective_recipe(uncapped, name, image_size)
    return shortened or (limit is not None and patches > limit)


def recipe_digest(params: Params, name: str, weights: str | None = None) -> str:
    """Compute a digest of all that a recipe says about the result of its training.

    Args:
        params: parameters with the recipe.
        name: name of the recipe.
        weights: digest of the file that its network starts from; None where its weights are random.
    """
    decisive = {
        "recipe": params.recipe(name).model_dump(),
        "quick": params.quick.model_dump() if params.quick else None,
        "weights": weights,
        "seed": params.seed,
        "train": params.train.model_dump(exclude={"parallel"}),
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
