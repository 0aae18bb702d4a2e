"""Keys that `params.yaml` had in earlier versions, and what replaces them."""

from __future__ import annotations

from typing import Any

from histopipe.core.variants import KINDS

MOVED_FROM_RECIPES = ("search", "published")  # a recipe's block holds only what its training depends on


def moved_keys(content: dict[str, Any]) -> list[str]:
    """Return how to change the `params.yaml` of an earlier version.

    Args:
        content: the content of the file.

    Returns:
        One line per key that moved; none for an up-to-date file.
    """
    return [*_moved_from_recipes(content.get("recipes")), *_moved_lists(content.get("studies"))]


def _moved_from_recipes(recipes: Any) -> list[str]:
    blocks = recipes.items() if isinstance(recipes, dict) else ()
    return [
        f"recipes.{name}.{key} moved: write it as {key}.{name}, in a block `{key}:` at the top level"
        for name, block in blocks
        if isinstance(block, dict)
        for key in MOVED_FROM_RECIPES
        if key in block
    ]


def _moved_lists(studies: Any) -> list[str]:
    """Return messages about the lists of folds, seeds, schemes and sizes, which became one list of variants."""
    lists = studies if isinstance(studies, dict) else {}
    return [_moved_list(study, kind, lists[study]) for study, kind in KINDS.items() if study in lists]


def _moved_list(study: str, kind: str, values: Any) -> str:
    if not values:
        return f"studies.{study} is gone: remove it; variants are listed in studies.variants"
    names = ", ".join(f"{kind}-{value}" for value in (values if isinstance(values, list) else [values]))
    return f"studies.{study} moved: write them as {names} into the list studies.variants"
