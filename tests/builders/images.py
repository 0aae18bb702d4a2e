"""Encoded images: of random pixels or of given ones, and the chunks that PNGs are made of."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image


def png(height: int = 50, width: int = 50, seed: int = 0, mode: str = "RGB") -> bytes:
    """Encode an image of random pixels."""

    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, format="PNG")
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
