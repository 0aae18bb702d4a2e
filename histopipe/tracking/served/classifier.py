"""The served model's code, which MLflow copies into the model's folder and runs from there ("models from code").

It imports nothing of histopipe, so that a server needs only the model's own requirements. A test checks that it
prepares an image (pads or resizes it to the stored size) as `histopipe.ingest.images` does.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras
import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from numpy.typing import NDArray
from PIL import Image, ImageOps

IMAGE_COLUMN = "image"
BATCH = 256
MAX_PIXELS = 4_000_000  # larger images are slides, not patches
DEPTH = 24  # offset of the bits per value in a PNG's header
DARKEST = 63  # darker 16-bit images use only the lower bits
TOO_DARK = "pixels of 16 or 32 bits that use less than a quarter of them: convert them to 8 bits"

Pixels = NDArray[np.uint8]  # (height, width, 3), RGB


class UnreadableImageError(MlflowException, ValueError):
    """An image can't be predicted; it is an MLflow error too, so that MLflow's server responds with the message."""

    def __init__(self, message: str) -> None:
        super().__init__(message, error_code=INVALID_PARAMETER_VALUE)


class PatchClassifier(PythonModel):
    """A classifier of patches: the probability of the positive class, and the decision at the model's threshold."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the network (stock layers only, the calibration folded in) and the operating point."""
        self.network = keras.saving.load_model(context.artifacts["network"], compile=False, safe_mode=True)
        if keras.backend.backend() == "tensorflow" and not _has_gpu():
            self.network.jit_compile = False  # XLA on a CPU is slow, and compiles again for each number of images
        self.operating_point = json.loads(Path(context.artifacts["operating_point"]).read_text(encoding="utf-8"))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Predict images.

        Args:
            context: unused; MLflow passes it.
            model_input: uint8 patches (images, height, width, 3) or one (height, width, 3); a list of such
                patches; or a frame whose column `image` holds PNG or JPEG files as bytes, as base64 text, or
                pixels.
            params: unused; MLflow passes it.

        Returns:
            One row per image: `probability` of the positive class, and `decision` (1: at or above the
                threshold).

        Raises:
            UnreadableImageError: an image can't be read; the message names its row. It is a ValueError.
        """
        images = [self._fitted(image) for image in read_images(model_input)]
        probability = self._probabilities(images)
        decision = (probability >= self.operating_point["threshold"]).astype(np.int64)
        return pd.DataFrame({"probability": probability, "decision": decision})

    def _fitted(self, image: Pixels) -> Pixels:
        height, width = self.operating_point["patch_size"]
        return resized(image, height, width) if self.operating_point["resized"] else padded(image, height, width)

    def _probabilities(self, images: list[Pixels]) -> NDArray[np.float64]:
        probability = np.empty(len(images), np.float64)
        for rows in _batches(images):
            batch = np.stack([images[row] for row in rows])
            probability[rows] = np.asarray(self.network.predict_on_batch(batch), np.float64)[:, 0]
        return probability


def _has_gpu() -> bool:
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def _batches(images: list[Pixels]) -> Iterable[list[int]]:
    """Group rows to predict together: images of one shape, at most `BATCH` of them."""
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for row, image in enumerate(images):
        by_shape.setdefault(image.shape, []).append(row)
    for rows in by_shape.values():
        for start in range(0, len(rows), BATCH):
            yield rows[start : start + BATCH]


def padded(image: Pixels, height: int, width: int) -> Pixels:
    """Pad an image cut off at the slide's edge to the patch size by repeating its last row and column."""
    below, right = max(0, height - image.shape[0]), max(0, width - image.shape[1])
    return np.pad(image, ((0, below), (0, right), (0, 0)), mode="edge") if below or right else image


def resized(image: Pixels, height: int, width: int) -> Pixels:
    """Resize to the patch size: the mean over each target pixel's area, or bilinear where the image grows."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = image.shape[0] >= height and image.shape[1] >= width
    method = Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(image).resize((width, height), method))


def read_images(model_input: Any) -> list[Pixels]:
    """Convert a client's input into a list of RGB images.

    Raises:
        UnreadableImageError: there is no column `image`, or an image can't be read.
    """
    if isinstance(model_input, pd.DataFrame | dict):
        if IMAGE_COLUMN not in model_input:
            raise UnreadableImageError(
                f"no column {IMAGE_COLUMN!r}; found {', '.join(map(str, model_input)) or 'none'}"
            )
        model_input = model_input[IMAGE_COLUMN]
    if isinstance(model_input, np.ndarray) and model_input.ndim == 3:
        model_input = model_input[np.newaxis]
    if isinstance(model_input, bytes | str):
        model_input = [model_input]
    return [_read_image(image, row) for row, image in enumerate(model_input)]


def _read_image(image: Any, row: int) -> Pixels:
    try:
        if isinstance(image, str):
            image = base64.b64decode(image, validate=True)
        return decode(image) if isinstance(image, bytes) else as_pixels(image)
    except binascii.Error:
        raise UnreadableImageError(f"row {row}: the text is not base64") from None
    except ValueError as problem:
        raise UnreadableImageError(f"row {row}: {problem}") from None


def decode(content: bytes) -> Pixels:
    """Decode a PNG or JPEG file to RGB; transparent parts become white.

    Raises:
        ValueError: the bytes are no PNG or JPEG file, or damaged, or the image is too large or too dark for its depth.
    """
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is checked below
            depth = content[DEPTH] if image.format == "PNG" else 8
            size = f"{image.width} x {image.height}"
            too_large = image.width * image.height > MAX_PIXELS
            rgba = None if too_large else _as_rgba(ImageOps.exif_transpose(image), depth)
    except Exception:  # decoders raise anything over damaged or hostile bytes
        raise ValueError("not a readable PNG or JPEG image") from None
    if rgba is None:
        raise ValueError(f"{size} pixels are more than a patch has: cut the image into patches")
    visible = np.asarray(rgba)[np.asarray(rgba)[..., 3] > 0]
    if depth == 16 and visible.size and visible[:, :3].max() <= DARKEST:
        raise ValueError(TOO_DARK)
    return np.asarray(Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB"))


def _as_rgba(image: Image.Image, depth: int) -> Image.Image:
    """Convert to RGBA with the transparent colour, if any.

    Pillow compares colours of eight bits with a transparent colour of the file's own depth.
    """
    transparent = image.info.get("transparency")
    if image.mode.startswith("I"):  # 16-bit grey: Pillow would clip it to white
        values = np.asarray(image)
        grey, alpha = (values >> 8).astype(np.uint8), np.full(values.shape, 255, np.uint8)
        if transparent is not None:
            alpha[values == transparent] = 0
        return Image.fromarray(np.stack([grey, grey, grey, alpha], axis=-1))
    if depth == 16 and isinstance(transparent, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in transparent)
    if depth in (2, 4) and image.mode == "L" and transparent is not None:
        image.info["transparency"] = transparent * 255 // (2**depth - 1)
    return image.convert("RGBA")


def as_pixels(values: Any) -> Pixels:
    """Check that `values` are the pixels of one RGB image: (height, width, 3), whole numbers from 0 to 255.

    Raises:
        ValueError: `values` are something else.
    """
    pixels = values if isinstance(values, np.ndarray) and values.dtype != object else _as_numbers(values)
    if pixels.ndim != 3 or pixels.shape[-1] != 3 or 0 in pixels.shape:
        raise ValueError(f"an image is (height, width, 3), not {pixels.shape}")
    if pixels.shape[0] * pixels.shape[1] > MAX_PIXELS:
        raise ValueError(f"{pixels.shape[1]} x {pixels.shape[0]} pixels are more than a patch has")
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind not in "uif" or not ((pixels >= 0) & (pixels <= 255) & (pixels % 1 == 0)).all():
        raise ValueError("pixels must be whole numbers from 0 to 255")
    return pixels.astype(np.uint8)


def _as_numbers(values: Any) -> NDArray[Any]:
    try:
        return np.asarray(values.tolist() if isinstance(values, np.ndarray) else values)
    except ValueError:
        raise ValueError("the rows of the image differ in length") from None


mlflow.models.set_model(PatchClassifier())
