"""The export formats by name."""

from __future__ import annotations

from histopipe.export import litert, onnx, openvino
from histopipe.export.source import Format

FORMATS: dict[str, Format] = {"litert": litert.FORMAT, "onnx": onnx.FORMAT, "openvino": openvino.FORMAT}
