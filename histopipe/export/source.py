"""The source of an export, its formats, and what they share."""

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
from histopipe.export.record import FileFacts
from histopipe.networks.backend import backend_name

if TYPE_CHECKING:
    import keras

Quantize = Literal["none", "float16", "int8"]
PredictFunction = Callable[[Patches], NDArray[np.float32]]  # from patches (n, height, width, 3) to probabilities (n,)

INPUT, OUTPUT = "patch", "probability"  # their names in the file
ALL = '`pip install -c requirements.lock -e ".[export]"`'


@dataclass(frozen=True)
class Source:
    """The source of an exported file.

    Attributes:
        network: a network that takes uint8 patches and returns calibrated probabilities.
        patch_size: height and width of the patches, in pixels.
        quantize: the precision. `none`: weights and arithmetic in float32; `float16`: weights rounded to float16, half
            the size; `int8`: weights and activations in int8, except for the last layer, since a logit in 256 steps
            would give many patches the same probability.
        calibration: patches that show the range of activations, (n, height, width, 3); empty unless int8.
        facts: the file's description.
    """

    network: keras.Model
    patch_size: tuple[int, int]
    quantize: Quantize
    calibration: Patches
    facts: FileFacts


@dataclass(frozen=True)
class Format:
    """A format of exported files.

    Attributes:
        suffix: the suffix of its files.
        packages: by precision, the packages that writing and reading a file need.
        write: writes a file; returns all files that belong to it, the one to open first.
        load: returns a function that predicts patches with a file, on a number of threads.
        extra_suffixes: suffixes of further files with the same stem that belong to it.
    """

    suffix: str
    packages: dict[Quantize, tuple[str, ...]]
    write: Callable[[Source, Path], list[Path]]
    load: Callable[[Path, int], PredictFunction]
    extra_suffixes: tuple[str, ...] = ()

    def require(self, quantize: Quantize) -> None:
        """Check that the packages are installed, and that Keras runs on the only backend that converters read.

        Raises:
            ExportError: a package is missing, or Keras runs on another backend.
        """
        missing = [name for name in self.packages[quantize] if importlib.util.find_spec(name) is None]
        if missing:
            raise ExportError(f"a {self.suffix} file needs {', '.join(missing)}, which isn't installed: run {ALL}")
        if backend_name() != "tensorflow":
            raise ExportError(f"exports need TensorFlow, and Keras runs on {backend_name()}: set KERAS_BACKEND")


def format_fact(fact: object) -> str:
    """Format a value for the metadata of a file."""
    return ", ".join(map(str, fact)) if isinstance(fact, list | tuple) else str(fact)


def flatten(values: Any) -> NDArray[np.float32]:
    """Flatten a runtime's probabilities, (n, 1), to (n,), and copy them: some runtimes return their own memory."""
    return np.array(values, np.float32)[:, 0]
