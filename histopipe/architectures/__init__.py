"""Architectures by name: `build("cancernet", image_size=48)` gives a Keras model."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from histopipe.errors import ArchitectureError

if TYPE_CHECKING:
    import keras

Builder = Callable[..., "keras.Model"]

_BUILDERS: dict[str, Builder] = {}


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
    try:
        return builder(**params)
    except (ValueError, TypeError, ZeroDivisionError) as problem:
        reason = " ".join(str(problem).split())[:200]
        values = ", ".join(f"{key} {value!r}" for key, value in params.items())
        raise ArchitectureError(f"{name} can't be built with {values} under `model`: {reason}") from None
