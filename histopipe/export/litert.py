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
from histopipe.export.record import Facts
from histopipe.export.source import INPUT, OUTPUT, Format, Grader, Source, flat

METADATA = "histopipe"  # name of the buffer that holds what the file says of itself, as JSON
RUNTIME = ("ai_edge_litert",)


def write(source: Source, path: Path) -> list[Path]:
    """Write a `.tflite`; the batch may be of any size."""
    with TemporaryDirectory() as folder:
        _save_graph(source, folder)
        content = _with_metadata(_converted(source, folder), source.facts)
    path.write_bytes(content)
    return [path]


def _save_graph(source: Source, folder: str) -> None:
    """The network in TensorFlow's own format, which the converter reads."""
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


def _converted(source: Source, folder: str) -> bytes:
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(folder)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]  # no Flex: its runtime is 20 times as large
    if source.quantize == "none":
        return bytes(converter.convert())
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if source.quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
        return bytes(converter.convert())
    return _in_integers(converter, source)


def _in_integers(converter: Any, source: Source) -> bytes:
    """All but the last layer and its sigmoid, which the quantizer's debugger is the one way to leave out."""
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
    """Names of what the last layer and the sigmoid behind it give, the last two operations."""
    from tensorflow.lite.tools import flatbuffer_utils

    graph = flatbuffer_utils.convert_bytearray_to_object(bytearray(content)).subgraphs[0]
    outputs = [place for operation in graph.operators[-2:] for place in operation.outputs]
    return [graph.tensors[place].name.decode() for place in outputs]


def _with_metadata(content: bytes, facts: Facts) -> bytes:
    from tensorflow.lite.python import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(json.dumps(facts, ensure_ascii=False).encode(), np.uint8)
    entry.name, entry.buffer = METADATA, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def read_facts(path: Path) -> Facts:
    """What a file says of itself."""
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model(str(path))
    entry = next(entry for entry in model.metadata if entry.name in (METADATA, METADATA.encode()))
    facts: Facts = json.loads(bytes(model.buffers[entry.buffer].data))
    return facts


def load(path: Path, threads: int) -> Grader:
    """A function that grades patches by the file."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=threads)
    (given,), (found,) = interpreter.get_input_details(), interpreter.get_output_details()
    sized: list[tuple[int, ...]] = []

    def grade(patches: Patches) -> NDArray[np.float32]:
        if sized != [patches.shape]:
            interpreter.resize_tensor_input(given["index"], patches.shape)
            interpreter.allocate_tensors()
            sized[:] = [patches.shape]
        interpreter.set_tensor(given["index"], patches)
        interpreter.invoke()
        return flat(interpreter.get_tensor(found["index"]))

    return grade


FORMAT = Format(".tflite", {"none": RUNTIME, "float16": RUNTIME, "int8": RUNTIME}, write, load)
