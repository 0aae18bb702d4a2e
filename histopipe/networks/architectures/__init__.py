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

LARGEST_IMAGE = 1024  # pixels a side; more is a slip, and would run out of memory

SHARED = frozenset({"backbones", "blocks"})  # parts of architectures; every other module is an architecture

_BUILDERS: dict[str, Builder] = {}
_BACKBONES: dict[str, str] = {}
_KINDS: dict[str, tuple[str, tuple[type, ...]]] = {
    "int": ("a whole number", (int,)),
    "float": ("a number", (int, float)),
    "bool": ("true or false", (bool,)),
    "str": ("a text", (str,)),
}


def register(name: str, backbone: str | None = None) -> Callable[[Builder], Builder]:
    """Register a builder under `name`, which is also the name of its module.

    Args:
        name: name of the architecture.
        backbone: feature extractor inside it that published weights fit, unless the builder has a parameter `backbone`.
    """

    def add_builder(builder: Builder) -> Builder:
        _BUILDERS[name] = builder
        if backbone:
            _BACKBONES[name] = backbone
        return builder

    return add_builder


def list_architectures() -> list[str]:
    """List the names of all architectures; they are taken from file names, so nothing is imported."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in SHARED)


def require_architecture(name: str) -> None:
    """Check that there is an architecture called `name`.

    Raises:
        ArchitectureError: there is no such architecture; the message suggests the nearest name.
    """
    names = list_architectures()
    if name not in names:
        raise ArchitectureError(f"unknown architecture {name!r}; {did_you_mean(name, names)}")


def build(name: str, **params: Any) -> keras.Model:
    """Build the architecture called `name`.

    Args:
        name: one of `list_architectures()`.
        params: arguments of its builder, such as `image_size`.

    Returns:
        A model from uint8 patches (batch, height, width, 3) to probabilities (batch, 1).

    Raises:
        ArchitectureError: there is no such architecture, or it doesn't take such a parameter.

    Example:
        >>> build("cancernet", image_size=48).output_shape
        (None, 1)
    """
    builder = _builder(name)
    unknown = set(params) - set(inspect.signature(builder).parameters)
    if unknown:
        accepted = ", ".join(inspect.signature(builder).parameters)
        raise ArchitectureError(f"{name} takes no {', '.join(sorted(unknown))!r} under `model`; it takes {accepted}")
    for key, value in params.items():
        _require_valid(f"{name}: model.{key}", value, inspect.signature(builder).parameters[key])
    try:
        return builder(**params)
    except (ValueError, TypeError, ArithmeticError) as problem:
        reason = one_line(problem, 200)
        values = ", ".join(f"{key} {value!r}" for key, value in params.items())
        raise ArchitectureError(f"{name} can't be built with {values} under `model`: {reason}") from None


def _require_valid(key: str, value: object, parameter: inspect.Parameter) -> None:
    """Check a value before Keras sees it, which would take `true` for 1 and let an image size fill the memory."""
    expected, kinds = _KINDS.get(str(parameter.annotation), ("", (object,)))
    is_flag = isinstance(value, bool)
    if not isinstance(value, kinds) or (is_flag and bool not in kinds and expected):
        raise ArchitectureError(f"{key} is {value!r}: {expected} is expected")
    if isinstance(value, float) and not math.isfinite(value):
        raise ArchitectureError(f"{key} is {value!r}: a finite number is expected")
    if parameter.name == "image_size" and isinstance(value, int) and not 1 <= value <= LARGEST_IMAGE:
        raise ArchitectureError(f"{key} is {value!r}: a side from 1 to {LARGEST_IMAGE} pixels is expected")


def backbone_of(name: str, params: Mapping[str, Any]) -> str | None:
    """Return the name of the feature extractor that published weights fit; None where an architecture has none.

    Args:
        name: name of the architecture.
        params: arguments of its builder.
    """
    parameter = inspect.signature(_builder(name)).parameters.get("backbone")
    return str(params.get("backbone", parameter.default)) if parameter else _BACKBONES.get(name)


def network_code(name: str) -> list[Path]:
    """List the files that decide what `build(name)` returns: its own, and those of this package that they import."""
    require_architecture(name)
    code: set[Path] = set()
    modules = [name]
    while modules:
        files = set(_files_of(modules.pop())) - code
        code |= files
        modules += [module for file in sorted(files) for module in _imported_modules(file)]
    return sorted(code)


def _builder(name: str) -> Builder:
    """Import an architecture's module and return its builder."""
    require_architecture(name)
    importlib.import_module(f"{__name__}.{name}")
    return _BUILDERS[name]


def _files_of(module: str) -> list[Path]:
    """List the files of a module or package in this folder."""
    path = Path(__file__).with_name(module)
    return sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]


def _imported_modules(file: Path) -> Iterator[str]:
    """List the modules of this package that a file imports, without importing it.

    The registry itself decides nothing.
    """
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{__name__}."):
            yield str(node.module).removeprefix(f"{__name__}.").split(".")[0]
