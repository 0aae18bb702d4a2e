"""Pictures embedded in the page, small enough that the page can be sent by mail."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from histopipe.core.errors import EvaluationError
from histopipe.core.files import restore_command

PAGE_PICTURES = 9_000_000  # bytes of all pictures of a page; base64 adds a third
PICTURE = 900_000  # most bytes of one picture
WIDTHS = (1600, 1200, 900, 600, 400, 200)  # pixels, tried in turn until a picture is small enough
QUALITY = 88  # of WebP, which keeps small text sharp


@dataclass(frozen=True)
class Picture:
    """An embedded picture.

    Attributes:
        source: the picture as a data URI.
        width, height: size in pixels, so that the page doesn't jump while it loads.
        alt: description for those who can't see it.
    """

    source: str
    width: int
    height: int
    alt: str


def embed(files: Sequence[tuple[Path, str]], total: int = PAGE_PICTURES) -> dict[Path, Picture]:
    """Encode pictures as data URIs, all with an equal share of `total` bytes.

    Args:
        files: PNG files with their descriptions.
        total: maximum number of bytes for all of them together.

    Raises:
        EvaluationError: a file can't be read.
    """
    share = min(PICTURE, total // max(1, len(files)))
    return {path: _embed_picture(path, alt, share) for path, alt in files}


def _embed_picture(path: Path, alt: str, share: int) -> Picture:
    import PIL.Image

    try:
        with PIL.Image.open(path, formats=["PNG"]) as opened:
            image = opened.convert("RGB")
    except (OSError, ValueError, PIL.Image.DecompressionBombError) as problem:
        raise EvaluationError(f"{path} is not a readable picture ({problem}): {restore_command(path)}") from None
    for width in WIDTHS:
        smaller = image.copy()
        smaller.thumbnail((width, 4 * width), PIL.Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        smaller.save(buffer, "WEBP", quality=QUALITY, method=4)
        if buffer.tell() <= share:
            break
    text = base64.b64encode(buffer.getvalue()).decode()
    return Picture(f"data:image/webp;base64,{text}", smaller.width, smaller.height, alt)
