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
from histopipe.export.source import INPUT, OUTPUT, Format, PredictFunction, Source, flatten, format_fact
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
        model = _quantize(model, source.calibration)
    for name, fact in source.facts.items():
        model.set_rt_info(format_fact(fact), [METADATA, name])
    openvino.save_model(model, path, compress_to_fp16=source.quantize == "float16")
    return [path, path.with_suffix(".bin")]


def _quantize(model: Any, calibration: Patches) -> Any:
    """Quantize all but the last layer, with the ranges that the patches show.

    Ranges are those of all patches, as in the other formats; by default nncf would take the mean of the patches' ranges
    and clip values beyond it. Biases correct the error of all layers before, not that of a single layer.
    docs/exporting.md shows what this gains.
    """
    import nncf
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    logging.getLogger("nncf").setLevel(logging.WARNING)
    last = [node.get_friendly_name() for node in model.get_ordered_ops() if node.get_type_name() == "MatMul"][-1]
    with redirect_stdout(sys.stderr):  # it draws progress bars
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


def load(path: Path, threads: int) -> PredictFunction:
    """Return a function that predicts patches with the file."""
    core = load_openvino().Core()
    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    compiled = core.compile_model(path, "CPU", hints)

    def predict(patches: Patches) -> NDArray[np.float32]:
        return flatten(compiled(patches)[0])

    return predict


FORMAT = Format(".xml", {"none": (), "float16": (), "int8": ("nncf",)}, write, load, extra_suffixes=(".bin",))
