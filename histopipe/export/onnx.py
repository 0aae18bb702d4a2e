"""ONNX files, which ONNX Runtime reads on servers, in browsers and on phones."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histopipe.data.store import Patches
from histopipe.export.source import INPUT, OUTPUT, Format, PredictFunction, Source, flatten, format_fact

OPSET = 17  # the last with which tf2onnx tests all its rules; runtimes since 2022 read it
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
            file = _quantize(file, source.calibration)
        model = onnx.load(file)
    if source.quantize == "float16":
        _halve(model)
    onnx.helper.set_model_props(model, {name: format_fact(fact) for name, fact in source.facts.items()})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return [path]


def _write_float(source: Source, file: Path) -> None:
    """Convert the network for patches of any size, then set the size of its patches.

    If tf2onnx knows the size of the patches, it writes the float32 factor of a resize (.63999999 for 32 of 50 pixels)
    instead of the target size. ONNX rounds the product down, to 31. The network would then see another image, and ONNX
    Runtime refuses networks whose strides need an even size.
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
    (inputs,) = model.graph.input
    for dimension, length in zip(inputs.type.tensor_type.shape.dim[1:3], patch_size, strict=True):
        dimension.dim_value = length


def _name_output(model: Any) -> None:
    (output,) = model.graph.output
    for node in model.graph.node:
        node.output[:] = [OUTPUT if name == output.name else name for name in node.output]
    output.name = OUTPUT


def _halve(model: Any) -> None:
    """Store weights in float16 and cast them to float32 where they are used; runtimes do that once, on loading.

    Arithmetic in float16 would gain nothing on a CPU, which doesn't have it, and cost accuracy.
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


def _quantize(file: Path, calibration: Patches) -> Path:
    """Quantize all but the last layer, with the ranges that the patches show."""
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared, quantized = file.with_name("prepared.onnx"), file.with_name("int8.onnx")
    quant_pre_process(str(file), str(prepared), skip_symbolic_shape=True)  # joins batch norms to convolutions
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)  # it advises on the root logger to prepare the file, though it is
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
    """Return the names of the nodes from the last matrix product on."""
    nodes = list(model.graph.node)
    last = max(index for index, node in enumerate(nodes) if node.op_type in ("MatMul", "Gemm"))
    return [node.name for node in nodes[last:]]


def _reader(calibration: Patches) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        """A reader of calibration patches, one by one."""

        def __init__(self) -> None:
            self._patches: Iterator[Patches] = iter(calibration)

        def get_next(self) -> dict[str, Patches] | None:
            """Return the next patch as the network's input; None after the last."""
            patch = next(self._patches, None)
            return None if patch is None else {INPUT: patch[None]}

    return Reader()


def load(path: Path, threads: int) -> PredictFunction:
    """Return a function that predicts patches with the file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def predict(patches: Patches) -> NDArray[np.float32]:
        return flatten(session.run([OUTPUT], {INPUT: patches})[0])

    return predict


FORMAT = Format(".onnx", {"none": TOOLS, "float16": TOOLS, "int8": TOOLS}, write, load)
