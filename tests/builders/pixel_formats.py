"""Small PNGs and JPEGs of many pixel formats, each with the colours that it shows."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.builders.images import chunk

SIDE = 512
PINK = np.full((SIDE, SIDE, 3), (200, 120, 180), np.uint8)
PINK[:, SIDE // 2 :] = (90, 60, 140)


def wide(pixels: np.ndarray, times: int = 257) -> np.ndarray:
    """Stretch 8-bit values to 16 bits."""
    return pixels.astype(np.uint16) * times


def with_alpha(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Add an alpha channel."""
    return np.concatenate([colours, alpha], axis=2)


def png_of(rows: np.ndarray, depth: int, colours: int, *others: bytes) -> bytes:
    """Encode a PNG of any depth; `rows` hold each row's bytes, `colours` is the kind as PNG numbers it."""
    width = rows.shape[1] * 8 // (depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colours])
    header = struct.pack(">IIBBBBB", width, len(rows), depth, colours, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), *others, chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    )


def big(pixels: np.ndarray) -> np.ndarray:
    """Return the bytes of 16-bit pixels, the upper byte first, row by row."""
    return np.ascontiguousarray(pixels.reshape(len(pixels), -1).astype(">u2")).view(np.uint8)


def transparent(*values: int) -> bytes:
    """Return a chunk that makes one colour transparent."""
    return chunk(b"tRNS", struct.pack(f">{len(values)}H", *values))


PALETTE = chunk(b"PLTE", bytes([200, 120, 180, 0, 0, 0]))
SMALL = PINK[:4, SIDE // 2 - 4 : SIDE // 2 + 4]  # 4 x 8, half of it light, half dark
LIGHT_ONLY = np.where(np.arange(8)[None, :, None] < 4, SMALL, 255)  # where the dark half is transparent
INDEX = np.where(np.arange(8)[None] < 4, 0, 1).repeat(4, axis=0).astype(np.uint8)
OPAQUE = np.where(np.arange(8)[None, :, None] < 4, 255, 0).repeat(4, axis=0).astype(np.uint8)
GREY_LIGHT = np.repeat(LIGHT_ONLY[..., 1:2], 3, axis=2)
PNGS = (
    pytest.param(png_of(np.zeros((4, 32), np.uint8), 8, 6), np.full((4, 8, 3), 255), id="transparent"),
    pytest.param(png_of(with_alpha(SMALL, OPAQUE).reshape(4, -1), 8, 6), LIGHT_ONLY, id="rgba"),
    pytest.param(png_of(SMALL.reshape(4, -1), 8, 2, transparent(90, 60, 140)), LIGHT_ONLY, id="rgb, tRNS"),
    pytest.param(
        png_of(np.concatenate([SMALL[..., 1:2], OPAQUE], axis=2).reshape(4, -1), 8, 4), GREY_LIGHT, id="grey, alpha"
    ),
    pytest.param(png_of(SMALL[..., 1], 8, 0, transparent(60)), GREY_LIGHT, id="grey, tRNS"),
    pytest.param(
        png_of(np.packbits((INDEX > 0).astype(np.uint8), axis=1), 1, 0, transparent(1)),
        np.where(INDEX[..., None] > 0, [255] * 3, 0),
        id="1 bit, tRNS",
    ),
    pytest.param(
        png_of(np.array([[0b10_10_10_10, 0b01_01_01_01]] * 4, np.uint8), 2, 0, transparent(1)),
        np.where(INDEX[..., None] == 0, [170] * 3, 255),
        id="2 bits, tRNS",
    ),
    pytest.param(
        png_of(np.array([[0x77, 0x77, 0x33, 0x33]] * 4, np.uint8), 4, 0, transparent(3)),
        np.where(INDEX[..., None] == 0, [119] * 3, 255),
        id="4 bits, tRNS",
    ),
    pytest.param(png_of(INDEX, 8, 3, PALETTE, chunk(b"tRNS", b"\xff\0")), LIGHT_ONLY, id="palette, tRNS"),
    pytest.param(
        png_of(INDEX ^ 1, 8, 3, PALETTE[:-4] + PALETTE[-4:], chunk(b"tRNS", b"\0")),
        np.where(INDEX[..., None] == 0, [0] * 3, 255),
        id="palette, one index",
    ),
    pytest.param(png_of(big(wide(SMALL)), 16, 2), SMALL, id="16-bit rgb"),
    pytest.param(png_of(big(wide(SMALL[..., 1])), 16, 0), np.repeat(SMALL[..., 1:2], 3, 2), id="16-bit grey"),
    pytest.param(
        png_of(big(wide(SMALL)), 16, 2, transparent(90 * 257, 60 * 257, 140 * 257)), LIGHT_ONLY, id="16-bit, tRNS"
    ),
    pytest.param(png_of(big(wide(SMALL[..., 1])), 16, 0, transparent(60 * 257)), GREY_LIGHT, id="16-bit grey, tRNS"),
    pytest.param(png_of(big(wide(with_alpha(SMALL, OPAQUE))), 16, 6), LIGHT_ONLY, id="16-bit rgba"),
    pytest.param(
        png_of(big(wide(np.concatenate([SMALL[..., 1:2], OPAQUE], axis=2))), 16, 4),
        GREY_LIGHT,
        id="16-bit grey, alpha",
    ),
    pytest.param(png_of(np.zeros((4, 64), np.uint8), 16, 6), np.full((4, 8, 3), 255), id="16-bit transparent"),
)
EMPTY_UPPER_BITS = [
    png_of(big(wide(SMALL, times)), 16, 2, *significant)
    for times in (1, 4, 16, 64)
    for significant in ((), (chunk(b"sBIT", bytes([12, 12, 12])),))
]


def inked_jpeg(inverted: bool) -> bytes:
    """Encode a CMYK JPEG; Pillow writes inverted values with Adobe's mark, by which readers know."""
    inks = np.broadcast_to(np.array([55, 135, 75, 0], np.uint8), (16, 16, 4))
    stream = io.BytesIO()
    Image.frombytes("CMYK", (16, 16), inks.tobytes()).save(stream, "JPEG", quality=95)
    content = stream.getvalue()
    if inverted:
        return content
    start = content.index(b"Adobe") - 4
    return content[:start] + content[start + 2 + int.from_bytes(content[start + 2 : start + 4], "big") :]
