"""Names of variants of the main run: `fold-0`, `seed-1`, `scheme-random`, `size-25`."""

from __future__ import annotations

from typing import Literal, get_args

Scheme = Literal["grouped", "canonical", "kfold", "random"]
Study = Literal["folds", "seeds", "schemes", "sizes"]  # variants of one kind, summarised together
VariantValue = int | str  # a fold, a seed or a number of training cases; or a scheme

KINDS: dict[Study, str] = {"folds": "fold", "seeds": "seed", "schemes": "scheme", "sizes": "size"}
EXAMPLES = "fold-0, seed-1, scheme-random or size-25"

_BOUNDS: dict[str, tuple[int, int]] = {"fold": (0, 10**6), "seed": (0, 2**31 - 1), "size": (1, 10**9)}


def variant_name(study: Study, value: VariantValue) -> str:
    """Return a variant's name as `params.yaml`, stages and folders have it, such as `fold-0`."""
    return f"{KINDS[study]}-{value}"


def parse_variant(name: str) -> tuple[Study, VariantValue]:
    """Parse a variant's name.

    Args:
        name: the name, such as `fold-0`.

    Returns:
        The study that the variant belongs to, and its fold, seed, scheme or number of training cases.

    Raises:
        ValueError: the name isn't one of a variant.

    Example:
        >>> parse_variant("size-25")
        ('sizes', 25)
    """
    kind, _, value = name.partition("-")
    study = next((study for study, prefix in KINDS.items() if prefix == kind), None)
    if study == "schemes" and value in get_args(Scheme):
        return study, value
    if study is not None and study != "schemes" and value.isascii() and value.isdigit() and value == str(int(value)):
        low, high = _BOUNDS[kind]
        if low <= int(value) <= high:
            return study, int(value)
    raise ValueError(f"{name!r} is no variant: write {EXAMPLES}")
