"""What a recipe comes to once the data set's image size and the `quick` caps apply."""

from __future__ import annotations

import hashlib
import json

from histopipe.core.params import Params, QuickParams, RecipeParams


def effective_recipe(params: Params, name: str, image_size: int) -> RecipeParams:
    """The recipe as it is trained: the data set's image size where it names none, and the caps of `quick`.

    Args:
        params: hold recipe and caps.
        name: the recipe's.
        image_size: the side in pixels at which networks see the data set's patches.
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
    """The architecture says what is wrong with a size that is no number."""
    return size if isinstance(size, str) or quick.max_image_size is None else min(size, quick.max_image_size)


def is_capped(params: Params, name: str, image_size: int, patches: int) -> bool:
    """Whether `quick` makes this training, over so many patches, less than its recipe."""
    if params.quick is None:
        return False
    limit = params.quick.max_patches
    uncapped = params.model_copy(update={"quick": None})
    shortened = effective_recipe(params, name, image_size) != effective_recipe(uncapped, name, image_size)
    return shortened or (limit is not None and patches > limit)


def recipe_digest(params: Params, name: str, weights: str | None = None) -> str:
    """Digest of all that a recipe says of what its training gives.

    Args:
        params: hold the recipe.
        name: the recipe's.
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
