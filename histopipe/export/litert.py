"""LiteRT, formerly TensorFlow Lite: one `.tflite` for phones and small boards, of its built-in operations only."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histopipe.data.store import Patches
from histopipe.export.record import FileFacts
from histopipe.export.source import INPUT, OUTPUT, Format, PredictFunction, Source, flatten

METADATA = "histopipe"  # name of the buffer that holds the file's description, as JSON
RUNTIME = ("ai_edge_litert",)


def write(source: Source, path: Path) -> list[Path]:
    """Write a `.tflite`; the batch may be of any size."""
    with TemporaryDirectory() as folder:
        _save_graph(source, folder)
        content = _add_metadata(_convert(source, folder), source.facts)
    path.write_bytes(content)
    return [path]


def _save_graph(source: Source, folder: str) -> None:
    """Save the network in TensorFlow's own format, which the converter reads."""
    import keras
    import tensorflow as tf

    archive = keras.export.ExportArchive()
    archive.track(source.network)
    shape = (None, *source.patch_size, 3)
    archive.add_endpoint(
        "serve",
        lambda patch: {OUTPUT: source.network(patch, training=False)},
        input_signature=[tf.TensorSpec(shape, tf.uint8, name=INPUT)],
    )
    archive.write_out(folder, verbose=False)


def _convert(source: Source, folder: str) -> bytes:
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(folder)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]  # no Flex: its runtime is 20 times as large
    if source.quantize == "none":
        return bytes(converter.convert())
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if source.quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
        return bytes(converter.convert())
    return _quantize(converter, source)


def _quantize(converter: Any, source: Source) -> bytes:
    """Quantize all but the last layer and its sigmoid; only the quantizer's debugger can leave layers out."""
    import tensorflow as tf

    def examples() -> Iterator[dict[str, Patches]]:
        for patch in source.calibration:
            yield {INPUT: patch[None]}

    converter.representative_dataset = examples
    debugger = tf.lite.experimental.QuantizationDebugger(converter=converter, debug_dataset=examples)
    left_out = _last_layer(debugger.calibrated_model)
    debugger.options = tf.lite.experimental.QuantizationDebugOptions(denylisted_nodes=left_out)
    return bytes(debugger.get_nondebug_quantized_model())


def _last_layer(content: bytes) -> list[str]:
    """Return the names of the outputs of the last two operations: the last layer and its sigmoid."""
    from tensorflow.lite.tools import flatbuffer_utils

    graph = flatbuffer_utils.convert_bytearray_to_object(bytearray(content)).subgraphs[0]
    outputs = [index for operation in graph.operators[-2:] for index in operation.outputs]
    return [graph.tensors[index].name.decode() for index in outputs]


def _add_metadata(content: bytes, facts: FileFacts) -> bytes:
    from tensorflow.lite.python import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(json.dumps(facts, ensure_ascii=False).encode(), np.uint8)
    entry.name, entry.buffer = METADATA, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def read_facts(path: Path) -> FileFacts:
    """Read the description that a file contains."""
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model(str(path))
    entry = next(entry for entry in model.metadata if entry.name in (METADATA, METADATA.encode()))
    facts: FileFacts = json.loads(bytes(model.buffers[entry.buffer].data))
    return facts


def load(path: Path, threads: int) -> PredictFunction:
    """Return a function that predicts patches with the file."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=threads)
    (input_tensor,) = interpreter.get_input_details()
    (output_tensor,) = interpreter.get_output_details()
    sized: list[tuple[int, ...]] = []

    def predict(patches: Patches) -> NDArray[np.float32]:
        if sized != [patches.shape]:
            interpreter.resize_tensor_input(input_tensor["index"], patches.shape)
            interpreter.allocate_tensors()
            sized[:] = [patches.shape]
        interpreter.set_tensor(input_tensor["index"], patches)
        interpreter.invoke()
        return flatten(interpreter.get_tensor(output_tensor["index"]))

    return predict


FORMAT = Format(".tflite", {"none": RUNTIME, "float16": RUNTIME, "int8": RUNTIME}, write, load)
