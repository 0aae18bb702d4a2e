"""Affine resampling in plain Keras operations, which XLA can compile on every backend.

XLA doesn't know TensorFlow's own kernel, which `ops.image.affine_transform` calls; for a CPU there is `opencv`.
"""

from __future__ import annotations

from typing import Any

from keras import ops


def affine_gather(images: Any, transforms: Any, fill_mode: str) -> Any:
    """Sample each image bilinearly under its transformation, as `ops.image.affine_transform` does.

    Args:
        images: float32 (batch, height, width, channels).
        transforms: (batch, 8): output pixel (x, y) shows the input at (a x + b y + c, d x + e y + f).
        fill_mode: values beyond the border: `nearest`, `constant` (0), `reflect` or `wrap`.
    """
    count, height, width = ops.shape(images)[:3]
    y, x = ops.meshgrid(ops.arange(height, dtype="float32"), ops.arange(width, dtype="float32"), indexing="ij")
    a, b, c, d, e, f = (transforms[:, number, None, None] for number in range(6))
    from_x, from_y = a * x + b * y + c, d * x + e * y + f
    left, top = ops.floor(from_x), ops.floor(from_y)
    flat = ops.reshape(images, (count, height * width, images.shape[-1]))
    sampled = 0.0
    for column, share_x in ((left, 1 - (from_x - left)), (left + 1, from_x - left)):
        for row, share_y in ((top, 1 - (from_y - top)), (top + 1, from_y - top)):
            inside_x, seen_x = _within(column, width, fill_mode)
            inside_y, seen_y = _within(row, height, fill_mode)
            positions = ops.reshape(seen_y * width + seen_x, (count, height * width, 1))
            corner = ops.reshape(ops.take_along_axis(flat, positions, axis=1), ops.shape(images))
            sampled = sampled + corner * (share_x * share_y * inside_x * inside_y)[..., None]
    return sampled


def _within(positions: Any, length: Any, fill_mode: str) -> tuple[Any, Any]:
    """Map whole coordinates along an axis into the image; the first result is 0 where nothing is to be shown."""
    size = ops.cast(length, "float32")
    inside = ops.ones_like(positions)
    if fill_mode == "constant":
        inside = ops.cast((positions >= 0) & (positions < size), "float32")
    elif fill_mode == "reflect":
        positions = ops.mod(positions, 2 * size)
        positions = ops.minimum(positions, 2 * size - 1 - positions)
    elif fill_mode == "wrap":
        positions = ops.mod(positions, size)
    return inside, ops.cast(ops.clip(positions, 0, size - 1), "int32")
