"""The `search` ranges of a recipe as Optuna's distributions, and suggested values as a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from histopipe.core.errors import ParamsError, did_you_mean
from histopipe.core.params import RangeParams, RecipeParams

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

DIGITS = 4  # of a suggested number: readable in a recipe, and finer than any training distinguishes

Value = int | float | str | bool
Ranges = Mapping[str, RangeParams]  # by dotted key


def distributions(name: str, recipe: RecipeParams, ranges: Ranges) -> dict[str, BaseDistribution]:
    """Convert the ranges into Optuna's distributions, by dotted key.

    Args:
        name: name of the recipe, for messages.
        recipe: recipe with the values to vary.
        ranges: ranges of `search.NAME`.

    Raises:
        ParamsError: there are no ranges, the recipe lacks a key, or it can't take values of a range.
    """
    if not ranges:
        raise ParamsError(
            f"params.yaml: search.{name} is empty: give ranges, such as "
            f"`search: {{{name}: {{optimizer.learning_rate: {{low: 0.001, high: 0.1, log: true}}}}}}`"
        )
    own = own_values(recipe)
    for key, value_range in ranges.items():
        _require_known(name, key, own)
        for value in value_range.choices or (value_range.low, value_range.high):
            _require_possible(name, key, _typed(value, own[key], value_range), recipe)
    return {key: _distribution(name, key, value_range, own[key]) for key, value_range in ranges.items()}


def own_values(recipe: RecipeParams) -> dict[str, Any]:
    """List every value of a recipe that decides its training, by dotted key."""
    return _leaves(recipe.model_dump())


def with_values(recipe: RecipeParams, values: Mapping[str, Value]) -> RecipeParams:
    """Return the recipe with other values, by dotted key.

    Raises:
        pydantic.ValidationError: the recipe can't take them.
    """
    content = recipe.model_dump()
    for key, value in values.items():
        *parents, last = key.split(".")
        section = content
        for parent in parents:
            section = section[parent]
        section[last] = value
    return RecipeParams.model_validate(content)


def rounded(values: Mapping[str, Value], recipe: RecipeParams, ranges: Ranges) -> dict[str, Value]:
    """Round suggested values to a few digits, within their ranges; the recipe's own values are not changed."""
    own = own_values(recipe)
    return {key: value if value == own[key] else _rounded(value, ranges[key]) for key, value in values.items()}


def _rounded(value: Value, value_range: RangeParams) -> Value:
    if not isinstance(value, float) or value_range.low is None or value_range.high is None:
        return value
    return min(max(float(f"{value:.{DIGITS}g}"), value_range.low), value_range.high)


def _leaves(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for key, value in content.items():
        inner = _leaves(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
        leaves.update(inner)
    return leaves


def _require_known(name: str, key: str, own: Mapping[str, Any]) -> None:
    if key not in own:
        hint = did_you_mean(key, own, f"recipes.{name} has no such value to start from")
        raise ParamsError(f"params.yaml: search.{name}: unknown key {key!r}; {hint}")


def _require_possible(name: str, key: str, value: Value, recipe: RecipeParams) -> None:
    try:
        with_values(recipe, {key: value})
    except ValidationError as problems:
        reason = problems.errors()[0]["msg"].removeprefix("Value error, ")
        raise ParamsError(f"params.yaml: search.{name}.{key}: {value!r} is not possible: {reason}") from None


def _is_whole(own: Any, value_range: RangeParams) -> bool:
    """Return whether a value is a count: the recipe's is an integer, or it has none and the limits are integers."""
    if own is None:
        return _ends_are_whole(value_range)
    return isinstance(own, int) and not isinstance(own, bool)


def _ends_are_whole(value_range: RangeParams) -> bool:
    return all(end is not None and end.is_integer() for end in (value_range.low, value_range.high))


def _typed(value: Any, own: Any, value_range: RangeParams) -> Value:
    whole = isinstance(value, float) and value.is_integer() and _is_whole(own, value_range)
    return int(value) if whole else value


def _distribution(name: str, key: str, value_range: RangeParams, own: Any) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if value_range.low is None or value_range.high is None:
        return CategoricalDistribution(value_range.choices)
    if not _is_whole(own, value_range):
        return FloatDistribution(value_range.low, value_range.high, log=value_range.log)
    if not _ends_are_whole(value_range):
        raise ParamsError(
            f"params.yaml: search.{name}.{key}: the recipe's value {own} is an integer, so low and high must "
            f"be too (write {own}.0 in the recipe for a number with decimals)"
        )
    return IntDistribution(int(value_range.low), int(value_range.high), log=value_range.log)
