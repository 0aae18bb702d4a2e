"""ONNX, as ONNX Runtime reads it on servers, in browsers and on phones."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histopipe.data.store import Patches
from histopipe.export.source import INPUT, OUTPUT, Format, Grader, Source, as_text, flat

OPSET = 17  # the last that tf2onnx tests all its rules with, and what runtimes of 2022 read
WORTH_HALVING = 64  # weights of a tensor; fewer save nothing
QUANTIZED = ("Conv", "MatMul", "Gemm", "Add", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat")
TOOLS = ("onnx", "onnxruntime", "tf2onnx")


def write(source: Source, path: Path) -> list[Path]:
    """Write a `.onnx`; the batch may be of any size."""
    import onnx

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    with TemporaryDirectory() as scratch:
        file = Path(scratch) / "float32.onnx"
        _write_float(source, file)
        if source.quantize == "int8":
            file = _in_integers(file, source.calibration)
        model = onnx.load(file)
    if source.quantize == "float16":
        _halve(model)
    onnx.helper.set_model_props(model, {name: as_text(fact) for name, fact in source.facts.items()})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return [path]


def _write_float(source: Source, file: Path) -> None:
    """Convert as for patches of any size, then set theirs.

    Of patches whose size it knows, tf2onnx writes by what float32 factor to resize them, .63999999 for 32 of 50 pixels,
    rather than to what size. ONNX rounds the product down, to 31: networks see another picture, and ONNX Runtime
    refuses those whose strides tell even sizes from odd.
    """
    import onnx
    import tensorflow as tf

    signature = [tf.TensorSpec((None, None, None, 3), tf.uint8, name=INPUT)]
    source.network.export(str(file), format="onnx", verbose=False, input_signature=signature, opset_version=OPSET)
    model = onnx.load(file)
    _set_size(model, source.patch_size)
    _name_output(model)
    onnx.save(model, file)


def _set_size(model: Any, patch_size: tuple[int, int]) -> None:
    (given,) = model.graph.input
    for dimension, length in zip(given.type.tensor_type.shape.dim[1:3], patch_size, strict=True):
        dimension.dim_value = length


def _name_output(model: Any) -> None:
    (output,) = model.graph.output
    for node in model.graph.node:
        node.output[:] = [OUTPUT if name == output.name else name for name in node.output]
    output.name = OUTPUT


def _halve(model: Any) -> None:
    """Keep weights in float16 and turn them into float32 where they are used, which runtimes do once, on loading.

    Arithmetic in float16 would gain nothing on a CPU, which has none, and cost accuracy.
    """
    from onnx import TensorProto, helper, numpy_helper

    widened = []
    for weights in model.graph.initializer:
        if weights.data_type != TensorProto.FLOAT or np.prod(weights.dims) < WORTH_HALVING:
            continue
        name = weights.name
        weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights).astype(np.float16), f"{name}_half"))
        widened.append(helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
    nodes = [*widened, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _in_integers(file: Path, calibration: Patches) -> Path:
    """Quantize all but the last layer, by ranges that the patches show."""
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared, quantized = file.with_name("prepared.onnx"), file.with_name("int8.onnx")
    quant_pre_process(str(file), str(prepared), skip_symbolic_shape=True)  # joins batch norms to convolutions
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)  # it logs to the root that it was prepared, which it was
    try:
        quantization.quantize_static(
            str(prepared),
            str(quantized),
            _reader(calibration),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTIZED),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=_last_layer(onnx.load(prepared)),
        )
    finally:
        logging.getLogger().setLevel(level)
    return quantized


def _last_layer(model: Any) -> list[str]:
    """Names of the nodes from the last product of matrices on."""
    nodes = list(model.graph.node)
    last = max(place for place, node in enumerate(nodes) if node.op_type in ("MatMul", "Gemm"))
    return [node.name for node in nodes[last:]]


def _reader(calibration: Patches) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        """Hands out one patch after another."""

        def __init__(self) -> None:
            self._patches: Iterator[Patches] = iter(calibration)

        def get_next(self) -> dict[str, Patches] | None:
            """The next one; None behind the last."""
            patch = next(self._patches, None)
            return None if patch is None else {INPUT: patch[None]}

    return Reader()


def load(path: Path, threads: int) -> Grader:
    """A function that grades patches by the file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def grade(patches: Patches) -> NDArray[np.float32]:
        return flat(session.run([OUTPUT], {INPUT: patches})[0])

    return grade


FORMAT = Format(".onnx", {"none": TOOLS, "float16": TOOLS, "int8": TOOLS}, write, load)
