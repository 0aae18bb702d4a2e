"""Random changes of training patches: one affine warp for all geometric changes, and a change of stain.

Layers of the training graph, so they run where the network runs and on every Keras backend; they are left out of the
saved model. Their random state belongs to the layers and is checkpointed with them.
"""

from __future__ import annotations

from functools import partial
from math import pi
from typing import Any

import keras
import numpy as np
from keras import ops

from histopipe.core.params import AugmentationParams
from histopipe.networks.backend import backend_name, is_on_tensorflow_cpu
from histopipe.training.opencv import in_graph, stain_patches, warp_patches
from histopipe.training.resampling import affine_gather

# Optical densities of haematoxylin, eosin and DAB in red, green and blue (Ruifrok & Johnston 2001); the third absorbs
# what the first two can't explain
_STAINS = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105], [0.268, 0.570, 0.776]])
STAINS = (_STAINS / np.linalg.norm(_STAINS, axis=1, keepdims=True)).astype(np.float32)
_SHIFT = 0.2  # optical density added to a stain, as a share of the range of its amount


def augment(
    patches: keras.KerasTensor, ranges: AugmentationParams, seed: int, compiled: bool = False
) -> keras.KerasTensor:
    """Apply the random changes of a recipe one after the other; uint8 (batch, height, width, 3) in and out."""
    moved = RandomAffine(ranges, seed=seed, compiled=compiled)(patches)
    return RandomStain(ranges.stain, seed=seed + 1, compiled=compiled)(moved) if ranges.stain else moved


class RandomAffine(keras.layers.Layer):
    """A layer that warps each patch of a batch by its own random transformation, with bilinear interpolation.

    Ranges follow Keras' `ImageDataGenerator`: centre-based, rotation then shift then shear then zoom, each axis
    zoomed by itself, flips with probability one half; quarter turns by 0, 90, 180 or 270 degrees are added to the
    rotation. Unlike in Keras, `shear` is the tangent of the angle (its generator reads 0.05 as degrees, which shears by
    a thousandth).

    Input and output: uint8 (batch, height, width, 3); unchanged outside training.
    """

    def __init__(self, ranges: AugmentationParams, seed: int, compiled: bool = False, **options: Any) -> None:
        super().__init__(dtype="uint8", trainable=False, **options)
        self.ranges = ranges
        self.compiled = compiled  # by XLA, which doesn't know TensorFlow's own kernel
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, patches: Any, training: bool = False) -> Any:
        """Warp a batch in training; return it unchanged otherwise."""
        if not training:
            return patches
        transforms = self._transforms(patches)
        if is_on_tensorflow_cpu() and not self.compiled:
            return in_graph(partial(warp_patches, fill_mode=self.ranges.fill), patches, transforms)
        pixels = ops.cast(patches, "float32")
        gathers = self.compiled or backend_name() == "jax"  # JAX's own kernel is several times slower
        resample = affine_gather if gathers else ops.image.affine_transform  # the latter is bilinear by itself
        moved = resample(pixels, transforms, fill_mode=self.ranges.fill)
        return ops.cast(ops.clip(ops.round(moved), 0, 255), "uint8")

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the input's shape."""
        return input_shape

    def _transforms(self, patches: Any) -> Any:
        """Draw eight coefficients per patch that map an output pixel to the input pixel it shows."""
        count, height, width = ops.shape(patches)[:3]
        centre_x = (ops.cast(width, "float32") - 1) / 2
        centre_y = (ops.cast(height, "float32") - 1) / 2
        angle = self._uniform(count, self.ranges.rotation * pi / 180) + self._quarter_turns(count)
        cosine, sine = ops.cos(angle), ops.sin(angle)
        a, b, c, d = self._linear_part(cosine, sine, count)
        shift_x = self._uniform(count, self.ranges.shift) * ops.cast(width, "float32")
        shift_y = self._uniform(count, self.ranges.shift) * ops.cast(height, "float32")
        offset_x = centre_x - a * centre_x - b * centre_y + cosine * shift_x - sine * shift_y
        offset_y = centre_y - c * centre_x - d * centre_y + sine * shift_x + cosine * shift_y
        zeros = ops.zeros_like(a)
        return ops.stack([a, b, offset_x, c, d, offset_y, zeros, zeros], axis=1)

    def _linear_part(self, cosine: Any, sine: Any, count: Any) -> tuple[Any, Any, Any, Any]:
        """Compute rotation times shear times zoom and flips, as a 2 x 2 matrix per patch."""
        shear = self._uniform(count, self.ranges.shear)
        scale_x = (1 + self._uniform(count, self.ranges.zoom)) * self._sign(count, self.ranges.horizontal_flip)
        scale_y = (1 + self._uniform(count, self.ranges.zoom)) * self._sign(count, self.ranges.vertical_flip)
        a, b = cosine, cosine * shear - sine
        c, d = sine, sine * shear + cosine
        return a * scale_x, b * scale_y, c * scale_x, d * scale_y

    def _quarter_turns(self, count: Any) -> Any:
        if not self.ranges.quarter_turns:
            return ops.zeros((count,), "float32")
        turns = keras.random.randint((count,), 0, 4, seed=self.seed_generator)
        return ops.cast(turns, "float32") * (pi / 2)

    def _uniform(self, count: Any, limit: float) -> Any:
        return keras.random.uniform((count,), -limit, limit, dtype="float32", seed=self.seed_generator)

    def _sign(self, count: Any, flips: bool) -> Any:
        if not flips:
            return ops.ones((count,), "float32")
        heads = keras.random.uniform((count,), dtype="float32", seed=self.seed_generator) < 0.5
        return ops.where(heads, -1.0, 1.0)


class RandomStain(keras.layers.Layer):
    """A layer that changes how strongly each patch is stained, as laboratories and scanners do.

    In optical density, colours are sums of stains. Each stain's amount is multiplied by 1 plus or minus up to `share`,
    and shifted by up to a fifth of `share`. Both together are one affine map of the three channels' densities
    (Tellez et al. 2018).

    Input and output: uint8 (batch, height, width, 3); unchanged outside training.
    """

    def __init__(self, share: float, seed: int, compiled: bool = False, **options: Any) -> None:
        super().__init__(dtype="uint8", trainable=False, **options)
        self.share = share
        self.compiled = compiled
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, patches: Any, training: bool = False) -> Any:
        """Change the stain of a batch in training; return it unchanged otherwise."""
        if not training:
            return patches
        factors, terms = self._changes(ops.shape(patches)[0])
        if is_on_tensorflow_cpu() and not self.compiled:
            return in_graph(stain_patches, patches, factors, terms)
        densities = -ops.log((ops.cast(patches, "float32") + 1.0) / 256.0)
        changed = ops.einsum("nhwi,nij->nhwj", densities, factors) + terms[:, :, None]
        return ops.cast(ops.clip(ops.round(256.0 * ops.exp(-changed) - 1.0), 0, 255), "uint8")

    def _changes(self, count: Any) -> tuple[Any, Any]:
        """Draw for each patch a factor of its densities, (count, 3, 3), and a term added to them, (count, 1, 3)."""
        amounts = 1.0 + self._uniform((count, 1, 3))
        unmix, mix = ops.convert_to_tensor(np.linalg.inv(STAINS)), ops.convert_to_tensor(STAINS)
        factors = ops.matmul(unmix * amounts, mix)  # colours to stains, change, back to colours
        return factors, ops.matmul(_SHIFT * self._uniform((count, 1, 3)), mix)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the input's shape."""
        return input_shape

    def _uniform(self, shape: tuple[Any, ...]) -> Any:
        return keras.random.uniform(shape, -self.share, self.share, dtype="float32", seed=self.seed_generator)
