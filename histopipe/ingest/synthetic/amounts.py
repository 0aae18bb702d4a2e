"""Amounts of stain per pixel, and the few operations that pictures of tissue are put together with.

Whole numbers throughout: the amounts, and so the pictures, don't depend on how a machine rounds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from histopipe.ingest.synthetic.textures import Bytes

Amounts = NDArray[np.int16]  # (n, height, width), 0-255


def centred(texture: Bytes) -> Amounts:
    """From -128 to 127."""
    return texture.astype(np.int16) - np.int16(128)


def either(mask: NDArray[np.bool_], inside: int, outside: int) -> Amounts:
    """One value inside the mask, another outside."""
    return np.where(mask, np.int16(inside), np.int16(outside))


def softened(amounts: Amounts) -> Amounts:
    """Blur by the lens: weights 1, 4, 1 down and across."""
    padded = np.pad(amounts, ((0, 0), (1, 1), (1, 1)), mode="edge")
    down = padded[:, :-2] + 4 * padded[:, 1:-1] + padded[:, 2:]
    return divided(down[..., :-2] + 4 * down[..., 1:-1] + down[..., 2:], 36)


def divided(amounts: Amounts, divisor: int) -> Amounts:
    """Divide, rounding down, within 16 bits."""
    quotient: Amounts = np.floor_divide(amounts, np.int16(divisor))
    return quotient
