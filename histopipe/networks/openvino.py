"""A trained network compiled by OpenVINO for the CPU it runs on: the fast way to predict many patches.

Keras' own prediction is the reference: in float32 probabilities agree within 1e-4, which a test checks for every
architecture. bfloat16 is optional and needs a CPU that supports it (docs/performance.md).
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from histopipe.core.errors import InferenceError, one_line
from histopipe.data.store import Patches
from histopipe.networks.backend import backend_name, is_on_tensorflow_cpu
from histopipe.networks.prediction import Keep, Runtime

if TYPE_CHECKING:
    import keras

Precision = Literal["float32", "bfloat16"]

BATCH_SIZE = 32  # patches per request: their activations stay in a core's cache
JOBS = 4  # requests per stream: some wait while one is computed, or the stream would wait for Python, a tenth of it
WORTH_COMPILING = 20_000  # patches: DenseNet201 takes 11 s to compile, CancerNet predicts some 2,000 of them a second
SMALL = 64  # pixels: of larger pictures, resizing by products of matrices takes longer than OpenVINO's own way
HINTS = {"float32": "f32", "bfloat16": "bf16"}  # OpenVINO's names


class CompiledNetwork(Runtime):
    """A network that OpenVINO computes, compiled for patches of one size.

    Args:
        network: from uint8 patches (batch, height, width, 3) to one number each, such as `logit_network` gives.
        patch_size: height and width of the patches, in pixels.
        precision: precision of the arithmetic.
        batch_size: patches per request.
        at_once: whether all cores compute one request together, which is fastest for few patches; else each core
            computes its own requests, which is fastest for many.

    Raises:
        InferenceError: Keras runs on another backend than TensorFlow, the CPU has no bfloat16, or OpenVINO can't read
            the network.
    """

    def __init__(
        self,
        network: keras.Model,
        patch_size: tuple[int, int],
        precision: Precision = "float32",
        batch_size: int = BATCH_SIZE,
        at_once: bool = False,
    ) -> None:
        openvino = load_openvino()
        if backend_name() != "tensorflow":
            raise InferenceError(f"compiling needs TensorFlow, and Keras runs on {backend_name()}: set KERAS_BACKEND")
        core = openvino.Core()
        if precision == "bfloat16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise InferenceError("this CPU has no bfloat16: predict in float32")
        self.sizes, self.widths = (batch_size,), (1,)
        model = convert(network, (batch_size, *patch_size, 3))
        _resize_by_matrices(model)
        hints = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "PERFORMANCE_HINT": "LATENCY" if at_once else "THROUGHPUT",
        }
        compiled = core.compile_model(model, "CPU", hints)
        streams = compiled.get_property("NUM_STREAMS")
        self._requests = openvino.AsyncInferQueue(compiled, JOBS * streams)
        self._requests.set_callback(_pass_on)

    def start(self, batch: Patches, keep: Keep) -> None:
        """Pass a batch to the next free request; its memory is shared, not copied."""
        self._requests.start_async({0: batch}, (keep, batch), share_inputs=True)

    def finish(self) -> None:
        """Wait for all requests."""
        self._requests.wait_all()


def _pass_on(request: Any, target: tuple[Keep, Patches]) -> None:
    target[0]([request.get_output_tensor(0).data])


def convert(network: keras.Model, shape: tuple[int, ...]) -> Any:
    """Convert a network into a model of OpenVINO.

    Args:
        network: takes uint8 patches.
        shape: shape of the patches, (batch, height, width, 3); -1 for a batch of any size.

    Raises:
        InferenceError: OpenVINO can't read the network.
    """
    openvino = load_openvino()
    root = logging.getLogger()
    level, filters, handlers = root.level, list(root.filters), list(root.handlers)
    try:
        return openvino.convert_model(network, input=[(list(shape), openvino.Type.u8)])
    except Exception as problem:  # every part of the conversion has its own error
        root.setLevel(level)  # after a failure it leaves the log muted
        root.filters, root.handlers = filters, handlers
        reason = one_line(problem, 200)
        raise InferenceError(f"{network.name} can't be compiled ({reason}): predict by Keras") from None


def _resize_by_matrices(model: Any) -> None:
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Interpolate" and _is_plain_resizing(node):
            node.output(0).replace(_by_matrices(node))
    model.validate_nodes_and_infer_types()


def _is_plain_resizing(node: Any) -> bool:
    """Return whether an Interpolate node of OpenVINO comes from Keras' bilinear resizing."""
    attributes = node.get_attributes()
    bilinear = attributes["mode"] == "linear_onnx" and attributes["coordinate_transformation_mode"] == "half_pixel"
    axes = node.input_value(node.get_input_size() - 1).get_node()
    spatial = axes.get_type_name() == "Constant" and list(axes.get_data()) == [1, 2]
    small = max(*node.input(0).get_shape()[1:3], *node.output(0).get_shape()[1:3]) <= SMALL
    return (
        bilinear
        and spatial
        and small
        and not attributes["antialias"]
        and not any(attributes["pads_begin"] + attributes["pads_end"])
    )


def _by_matrices(node: Any) -> Any:
    """Resize (batch, height, width, channels) by two products of matrices.

    OpenVINO's own resizing is no faster in bfloat16 than in float32 (docs/performance.md).
    """
    from openvino import opset13 as ops

    def shaped(output: Any, *shape: int) -> Any:
        return ops.reshape(output, ops.constant(np.array(shape, np.int64)), special_zero=False)

    count, height, width, channels = node.input(0).get_shape()
    _, rows, columns, _ = node.output(0).get_shape()
    across = np.kron(bilinear_weights(width, columns), np.eye(channels, dtype=np.float32))
    lines = shaped(node.input_value(0), count * height, width * channels)
    narrowed = ops.matmul(lines, ops.constant(across), transpose_a=False, transpose_b=True)
    pictures = shaped(narrowed, count, height, columns * channels)
    down = ops.constant(bilinear_weights(height, rows)[None])
    resized = ops.matmul(down, pictures, transpose_a=False, transpose_b=False)
    return shaped(resized, count, rows, columns, channels).output(0)


def bilinear_weights(length: int, resized: int) -> NDArray[np.float32]:
    """Return the weight of each of `length` pixels in each of `resized` ones, (resized, length).

    Centres are at half pixels.
    """
    centres = np.clip((np.arange(resized) + 0.5) * length / resized - 0.5, 0, length - 1)
    return np.maximum(0, 1 - np.abs(centres[:, None] - np.arange(length))).astype(np.float32)


def is_quicker(patches: float) -> bool:
    """Return whether predicting that many patches is faster by a compiled network, compiling included."""
    return patches >= WORTH_COMPILING and is_on_tensorflow_cpu()


def load_openvino() -> Any:
    """Import OpenVINO with its telemetry off: it would report every import and conversion."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino
