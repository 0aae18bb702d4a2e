"""Amounts of stain per pixel, and the operations that pictures of tissue are composed with.

All arithmetic uses integers, so the pictures don't depend on how a machine rounds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from histopipe.ingest.synthetic.textures import Bytes

Amounts = NDArray[np.int16]  # (n, height, width), 0-255


def centre(texture: Bytes) -> Amounts:
    """Shift a texture to values from -128 to 127."""
    return texture.astype(np.int16) - np.int16(128)


def choose(mask: NDArray[np.bool_], inside: int, outside: int) -> Amounts:
    """Return one value inside the mask and another outside."""
    return np.where(mask, np.int16(inside), np.int16(outside))


def soften(amounts: Amounts) -> Amounts:
    """Blur amounts like a lens, with weights 1, 4, 1 down and across."""
    padded = np.pad(amounts, ((0, 0), (1, 1), (1, 1)), mode="edge")
    down = padded[:, :-2] + 4 * padded[:, 1:-1] + padded[:, 2:]
    return divide(down[..., :-2] + 4 * down[..., 1:-1] + down[..., 2:], 36)


def divide(amounts: Amounts, divisor: int) -> Amounts:
    """Divide amounts, rounding down, in 16-bit arithmetic."""
    quotient: Amounts = np.floor_divide(amounts, np.int16(divisor))
    return quotient
