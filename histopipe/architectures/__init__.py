"""Architectures by name: `build("cancernet", image_size=48)` gives a Keras model."""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from histopipe.errors import ArchitectureError

if TYPE_CHECKING:
    import keras

Builder = Callable[..., "keras.Model"]

LARGEST_IMAGE = 1024  # pixels a side; whoever asks for more means something else, and would run out of memory

_BUILDERS: dict[str, Builder] = {}
_KINDS: dict[str, tuple[str, tuple[type, ...]]] = {
    "int": ("a whole number", (int,)),
    "float": ("a number", (int, float)),
    "bool": ("true or false", (bool,)),
    "str": ("a text", (str,)),
}


def register(name: str) -> Callable[[Builder], Builder]:
    """Make a builder known under `name`, which is also the name of its module."""

    def keep(builder: Builder) -> Builder:
        _BUILDERS[name] = builder
        return builder

    return keep


def list_architectures() -> list[str]:
    """Names of all architectures; found by file name, so nothing is imported."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "blocks")


def require_architecture(name: str) -> None:
    """Check that there is an architecture called `name`.

    Raises:
        ArchitectureError: there is none; the message names the nearest.
    """
    known = list_architectures()
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(known)}"
        raise ArchitectureError(f"unknown architecture {name!r}; {hint}")


def build(name: str, **params: Any) -> keras.Model:
    """Build the architecture called `name`.

    Args:
        name: one of `list_architectures()`.
        params: what its builder takes, such as `image_size`.

    Returns:
        A model from uint8 patches (batch, height, width, 3) to probabilities (batch, 1).

    Raises:
        ArchitectureError: no such architecture, or a parameter it doesn't take.
    """
    require_architecture(name)
    importlib.import_module(f"{__name__}.{name}")
    builder = _BUILDERS[name]
    unknown = set(params) - set(inspect.signature(builder).parameters)
    if unknown:
        accepted = ", ".join(inspect.signature(builder).parameters)
        raise ArchitectureError(f"{name} takes no {', '.join(sorted(unknown))!r} under `model`; it takes {accepted}")
    for key, value in params.items():
        _require_sound(f"{name}: model.{key}", value, inspect.signature(builder).parameters[key])
    try:
        return builder(**params)
    except (ValueError, TypeError, ArithmeticError) as problem:
        reason = " ".join(str(problem).split())[:200]
        values = ", ".join(f"{key} {value!r}" for key, value in params.items())
        raise ArchitectureError(f"{name} can't be built with {values} under `model`: {reason}") from None


def _require_sound(key: str, value: object, parameter: inspect.Parameter) -> None:
    """Check a value before Keras sees it, which would take `true` for 1 and let an image size fill the memory."""
    wanted, kinds = _KINDS.get(str(parameter.annotation), ("", (object,)))
    is_flag = isinstance(value, bool)
    if not isinstance(value, kinds) or (is_flag and bool not in kinds and wanted):
        raise ArchitectureError(f"{key} is {value!r}: {wanted} is wanted")
    if isinstance(value, float) and not math.isfinite(value):
        raise ArchitectureError(f"{key} is {value!r}: a finite number is wanted")
    if parameter.name == "image_size" and isinstance(value, int) and not 1 <= value <= LARGEST_IMAGE:
        raise ArchitectureError(f"{key} is {value!r}: a side from 1 to {LARGEST_IMAGE} pixels is wanted")
