"""OpenVINO's intermediate representation: an `.xml` with the graph and a `.bin` with the weights."""

from __future__ import annotations

import logging
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histopipe.data.store import Patches
from histopipe.export.source import INPUT, OUTPUT, Format, Grader, Source, as_text, flat
from histopipe.networks.openvino import convert, load_openvino

METADATA = "histopipe"  # section of the file's runtime information


def write(source: Source, path: Path) -> list[Path]:
    """Write an `.xml` and its `.bin`; the batch may be of any size.

    Raises:
        InferenceError: OpenVINO can't read the network.
    """
    openvino = load_openvino()
    model = convert(source.network, (-1, *source.patch_size, 3))
    model.input(0).set_names({INPUT})
    model.output(0).set_names({OUTPUT})
    if source.quantize == "int8":
        model = _in_integers(model, source.calibration)
    for name, fact in source.facts.items():
        model.set_rt_info(as_text(fact), [METADATA, name])
    openvino.save_model(model, path, compress_to_fp16=source.quantize == "float16")
    return [path, path.with_suffix(".bin")]


def _in_integers(model: Any, calibration: Patches) -> Any:
    """Quantize all but the last layer, by ranges that the patches show.

    Ranges are those of all patches, as in the other formats, where nncf would take the mean of each patch's and cut off
    what lies beyond; and biases make good the error of all layers before, rather than of one layer alone.
    docs/exporting.md has what that gains.
    """
    import nncf
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    logging.getLogger("nncf").setLevel(logging.WARNING)
    last = [node.get_friendly_name() for node in model.get_ordered_ops() if node.get_type_name() == "MatMul"][-1]
    with redirect_stdout(sys.stderr):  # where it draws its progress
        return nncf.quantize(
            model,
            nncf.Dataset([patch[None] for patch in calibration]),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(calibration),
            fast_bias_correction=False,
            ignored_scope=nncf.IgnoredScope(names=[last]),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX
            ),
        )


def load(path: Path, threads: int) -> Grader:
    """A function that grades patches by the file."""
    core = load_openvino().Core()
    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    compiled = core.compile_model(path, "CPU", hints)

    def grade(patches: Patches) -> NDArray[np.float32]:
        return flat(compiled(patches)[0])

    return grade


FORMAT = Format(".xml", {"none": (), "float16": (), "int8": ("nncf",)}, write, load, beside=(".bin",))
