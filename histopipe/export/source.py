"""What a file is made from."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from histopipe.core.errors import ExportError
from histopipe.data.store import Patches
from histopipe.export.record import Facts
from histopipe.networks.backend import backend_name

if TYPE_CHECKING:
    import keras

Quantize = Literal["none", "float16", "int8"]
Grader = Callable[[Patches], NDArray[np.float32]]  # from patches (n, height, width, 3) to probabilities (n,)

INPUT, OUTPUT = "patch", "probability"  # what the file calls them
ALL = '`pip install -c requirements.lock -e ".[export]"`'


@dataclass(frozen=True)
class Source:
    """What a file is made from.

    Attributes:
        network: gives calibrated probabilities of uint8 patches.
        patch_size: height and width of the patches, in pixels.
        quantize: `none`: weights and arithmetic in float32; `float16`: weights rounded to it, half the size; `int8`:
            weights and activations but for the last layer, whose logit in 256 steps would tie many patches.
        calibration: patches that show the range of activations, (n, height, width, 3); none unless int8.
        facts: what the file says of itself.
    """

    network: keras.Model
    patch_size: tuple[int, int]
    quantize: Quantize
    calibration: Patches
    facts: Facts


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        suffix: of the file.
        packages: modules that writing and reading it take; by precision those beyond.
        write: writes it; returns all the files it takes, the one to open first.
        load: a function that grades patches by the file, on so many threads.
        beside: suffixes of further files that belong to it, of the same stem.
    """

    suffix: str
    packages: dict[Quantize, tuple[str, ...]]
    write: Callable[[Source, Path], list[Path]]
    load: Callable[[Path, int], Grader]
    beside: tuple[str, ...] = ()

    def require(self, quantize: Quantize) -> None:
        """Check that the packages are there, and that Keras runs on the one backend that converters read.

        Raises:
            ExportError: they aren't, or it doesn't.
        """
        missing = [name for name in self.packages[quantize] if importlib.util.find_spec(name) is None]
        if missing:
            raise ExportError(f"a {self.suffix} file needs {', '.join(missing)}, which isn't installed: run {ALL}")
        if backend_name() != "tensorflow":
            raise ExportError(f"exports need TensorFlow, and Keras runs on {backend_name()}: set KERAS_BACKEND")


def as_text(fact: object) -> str:
    """A fact as metadata of a file holds it."""
    return ", ".join(map(str, fact)) if isinstance(fact, list | tuple) else str(fact)


def flat(values: Any) -> NDArray[np.float32]:
    """Probabilities (n, 1) of a runtime as (n,), copied: some hand out their own memory."""
    return np.array(values, np.float32)[:, 0]
