"""Changes of training patches that OpenCV computes on a CPU, within TensorFlow's graph.

Its warp takes a sixth of the processor time of TensorFlow's own kernel, its change of stain a fifth of that of
TensorFlow's elementwise operations (measured on batches of 32 patches of 48 and 50 px). XLA can't compile either.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histopipe.data.store import Patches

Numbers = NDArray[np.float32]


def in_graph(change: Callable[..., Patches], patches: Any, *arguments: Any) -> Any:
    """Call `change(patches, *arguments)`, a function of arrays, as part of TensorFlow's graph."""
    import tensorflow as tf

    changed = tf.numpy_function(change, [patches, *arguments], tf.uint8, stateful=False)
    changed.set_shape(patches.shape)
    return changed


def warp_patches(patches: Patches, transforms: Numbers, fill_mode: str) -> Patches:
    """Resample patches as `histopipe.training.resampling.affine_gather` does, rounded.

    Args:
        patches: uint8 (batch, height, width, 3); so is the result.
        transforms: (batch, 8).
        fill_mode: `nearest`, `constant`, `reflect` or `wrap`.
    """
    import cv2

    borders = {
        "nearest": cv2.BORDER_REPLICATE,
        "constant": cv2.BORDER_CONSTANT,
        "reflect": cv2.BORDER_REFLECT,
        "wrap": cv2.BORDER_WRAP,
    }
    options = {"flags": cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, "borderMode": borders[fill_mode]}
    size, moved = patches.shape[2:0:-1], np.empty_like(patches)
    for patch, matrix, target in zip(patches, transforms[:, :6].reshape(-1, 2, 3), moved, strict=True):
        cv2.warpAffine(patch, matrix, size, dst=target, **options)
    return moved


def stain_patches(patches: Patches, factors: Numbers, terms: Numbers) -> Patches:
    """Change the optical densities of each patch by its own affine map.

    Args:
        patches: uint8 (batch, height, width, 3); so is the result.
        factors: matrices that densities are multiplied by from the right, (batch, 3, 3).
        terms: values added to densities, (batch, 1, 3).
    """
    import cv2

    density_of = -np.log((np.arange(256, dtype=np.float32) + 1) / 256)
    maps = -np.concatenate([factors, terms], axis=1).transpose(0, 2, 1)  # negative, for exp(-density) below
    # One patch after the other: allocating a whole batch's densities costs more than all computation.
    densities, changed = np.empty((2, *patches.shape[1:]), np.float32)
    pixels = np.empty_like(patches)
    for patch, matrix, target in zip(patches, maps, pixels, strict=True):
        cv2.LUT(patch, density_of, dst=densities)
        cv2.transform(densities, matrix, dst=changed)
        np.minimum(changed, 0.0, out=changed)  # white is the lightest
        cv2.exp(changed, dst=changed)
        cv2.addWeighted(changed, 256, changed, 0, -1, dst=target, dtype=cv2.CV_8U)
    return pixels
