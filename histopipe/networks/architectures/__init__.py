"""Architectures by name: `build("cancernet", image_size=48)` gives a Keras model."""

from __future__ import annotations

import ast
import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histopipe.core.errors import ArchitectureError, did_you_mean, one_line

if TYPE_CHECKING:
    import keras

Builder = Callable[..., "keras.Model"]

LARGEST_IMAGE = 1024  # pixels a side; whoever asks for more means something else, and would run out of memory

SHARED = frozenset({"backbones", "blocks"})  # what architectures are made of; every other module is one

_BUILDERS: dict[str, Builder] = {}
_BACKBONES: dict[str, str] = {}
_KINDS: dict[str, tuple[str, tuple[type, ...]]] = {
    "int": ("a whole number", (int,)),
    "float": ("a number", (int, float)),
    "bool": ("true or false", (bool,)),
    "str": ("a text", (str,)),
}


def register(name: str, backbone: str | None = None) -> Callable[[Builder], Builder]:
    """Make a builder known under `name`, which is also the name of its module.

    Args:
        name: the architecture's.
        backbone: the feature extractor inside that published weights fit, unless the builder has a parameter of
            that name.
    """

    def keep(builder: Builder) -> Builder:
        _BUILDERS[name] = builder
        if backbone:
            _BACKBONES[name] = backbone
        return builder

    return keep


def list_architectures() -> list[str]:
    """Names of all architectures; found by file name, so nothing is imported."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in SHARED)


def require_architecture(name: str) -> None:
    """Check that there is an architecture called `name`.

    Raises:
        ArchitectureError: there is none; the message names the nearest.
    """
    known = list_architectures()
    if name not in known:
        raise ArchitectureError(f"unknown architecture {name!r}; {did_you_mean(name, known)}")


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
    builder = _builder(name)
    unknown = set(params) - set(inspect.signature(builder).parameters)
    if unknown:
        accepted = ", ".join(inspect.signature(builder).parameters)
        raise ArchitectureError(f"{name} takes no {', '.join(sorted(unknown))!r} under `model`; it takes {accepted}")
    for key, value in params.items():
        _require_sound(f"{name}: model.{key}", value, inspect.signature(builder).parameters[key])
    try:
        return builder(**params)
    except (ValueError, TypeError, ArithmeticError) as problem:
        reason = one_line(problem, 200)
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


def backbone_of(name: str, params: Mapping[str, Any]) -> str | None:
    """The feature extractor inside an architecture that published weights fit; None where there is none.

    Args:
        name: of the architecture.
        params: what its builder is given.
    """
    taken = inspect.signature(_builder(name)).parameters.get("backbone")
    return str(params.get("backbone", taken.default)) if taken else _BACKBONES.get(name)


def network_code(name: str) -> list[Path]:
    """The files that decide what `build(name)` gives: its own and what of this package they import, in order."""
    require_architecture(name)
    found: set[Path] = set()
    waiting = [name]
    while waiting:
        files = set(_files(waiting.pop())) - found
        found |= files
        waiting += [module for file in sorted(files) for module in _imported(file)]
    return sorted(found)


def _builder(name: str) -> Builder:
    require_architecture(name)
    importlib.import_module(f"{__name__}.{name}")
    return _BUILDERS[name]


def _files(module: str) -> list[Path]:
    place = Path(__file__).with_name(module)
    return sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]


def _imported(file: Path) -> Iterator[str]:
    """Modules of this package that a file imports, without importing it; the registry itself decides nothing."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{__name__}."):
            yield str(node.module).removeprefix(f"{__name__}.").split(".")[0]
