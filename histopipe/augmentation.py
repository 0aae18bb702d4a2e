"""Random affine warps of training patches: rotation, shift, shear, zoom and flips fused into one resampling.

A layer of the training graph, so it runs where the network runs and on every Keras backend; it is left out of the
saved model. Its random state belongs to the layer and is checkpointed with it.
"""

from __future__ import annotations

from math import pi
from typing import Any

import keras
from keras import ops

from histopipe.params import AugmentationParams
from histopipe.resampling import affine_gather


class RandomAffine(keras.layers.Layer):
    """Warps each patch of a batch by its own random transformation, once, with bilinear sampling.

    Ranges follow Keras' `ImageDataGenerator`: centre-based, rotation then shift then shear then zoom, each axis
    zoomed by itself, flips with probability one half. Unlike there, `shear` is the tangent of the angle
    (the generator reads its 0.05 as degrees, which shears by a thousandth).

    Input and output: uint8 (batch, height, width, 3); unchanged outside training.
    """

    def __init__(self, ranges: AugmentationParams, seed: int, compiled: bool = False, **options: Any) -> None:
        super().__init__(dtype="uint8", trainable=False, **options)
        self.ranges = ranges
        self.compiled = compiled  # by XLA, which doesn't know TensorFlow's own kernel
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, patches: Any, training: bool = False) -> Any:
        """Warp a batch; outside training, leave it alone."""
        if not training:
            return patches
        pixels, transforms = ops.cast(patches, "float32"), self._transforms(patches)
        resample = affine_gather if self.compiled else ops.image.affine_transform  # the latter is bilinear by itself
        warped = resample(pixels, transforms, fill_mode=self.ranges.fill)
        return ops.cast(ops.clip(ops.round(warped), 0, 255), "uint8")

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Shapes stay as they are."""
        return input_shape

    def _transforms(self, patches: Any) -> Any:
        """The eight coefficients, per patch, that take an output pixel to the input pixel it shows."""
        count, height, width = ops.shape(patches)[:3]
        centre_x = (ops.cast(width, "float32") - 1) / 2
        centre_y = (ops.cast(height, "float32") - 1) / 2
        angle = self._uniform(count, self.ranges.rotation * pi / 180)
        cosine, sine = ops.cos(angle), ops.sin(angle)
        a, b, c, d = self._linear_part(cosine, sine, count)
        shift_x = self._uniform(count, self.ranges.shift) * ops.cast(width, "float32")
        shift_y = self._uniform(count, self.ranges.shift) * ops.cast(height, "float32")
        offset_x = centre_x - a * centre_x - b * centre_y + cosine * shift_x - sine * shift_y
        offset_y = centre_y - c * centre_x - d * centre_y + sine * shift_x + cosine * shift_y
        nothing = ops.zeros_like(a)
        return ops.stack([a, b, offset_x, c, d, offset_y, nothing, nothing], axis=1)

    def _linear_part(self, cosine: Any, sine: Any, count: Any) -> tuple[Any, Any, Any, Any]:
        """Rotation times shear times zoom and flips, as a 2 x 2 matrix per patch."""
        shear = self._uniform(count, self.ranges.shear)
        scale_x = (1 + self._uniform(count, self.ranges.zoom)) * self._sign(count, self.ranges.horizontal_flip)
        scale_y = (1 + self._uniform(count, self.ranges.zoom)) * self._sign(count, self.ranges.vertical_flip)
        a, b = cosine, cosine * shear - sine
        c, d = sine, sine * shear + cosine
        return a * scale_x, b * scale_y, c * scale_x, d * scale_y

    def _uniform(self, count: Any, limit: float) -> Any:
        return keras.random.uniform((count,), -limit, limit, dtype="float32", seed=self.seed_generator)

    def _sign(self, count: Any, flips: bool) -> Any:
        if not flips:
            return ops.ones((count,), "float32")
        heads = keras.random.uniform((count,), dtype="float32", seed=self.seed_generator) < 0.5
        return ops.where(heads, -1.0, 1.0)
