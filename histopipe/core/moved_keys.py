"""Keys that `params.yaml` had in earlier versions, and what to write instead."""

from __future__ import annotations

from typing import Any

MOVED_FROM_RECIPES = ("search", "published")  # a training's block holds what trains it, and nothing else


def moved_keys(content: dict[str, Any]) -> list[str]:
    """Tell what an earlier version's `params.yaml` has to become.

    Args:
        content: of the file.

    Returns:
        One line per key that moved; none for a file of today.
    """
    return _moved_from_recipes(content.get("recipes"))


def _moved_from_recipes(recipes: Any) -> list[str]:
    blocks = recipes.items() if isinstance(recipes, dict) else ()
    return [
        f"recipes.{name}.{key} moved: write it as {key}.{name}, in a block `{key}:` at the top level"
        for name, block in blocks
        if isinstance(block, dict)
        for key in MOVED_FROM_RECIPES
        if key in block
    ]
