"""Reference maps that a network's maps should beat: darkness, and maps of the same network with random weights.

Any method that finds tissue finds many of the decisive pixels, even without a network. And a map that an untrained
network produces as well shows the architecture and the patch, but not what was learnt (Adebayo et al. 2018, "Sanity
checks for saliency maps", arXiv:1810.03292: the test by randomised parameters).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter

from histopipe.data.store import Patches
from histopipe.evaluation.metrics import Codes

if TYPE_CHECKING:
    import keras

    from histopipe.evaluation.explanation.maps import Explainer, Maps

DARKNESS, RANDOM_WEIGHTS = "darkness", "random weights"
GREY = (0.299, 0.587, 0.114)  # brightness of red, green and blue (ITU-R BT.601)
ONES = ("gamma", "variance", "scale")  # variables that are 1 in a new batch normalisation


def reference_maps(
    network: keras.Model, explainer: Explainer, patches: Patches, called: Codes, seed: int
) -> dict[str, Maps]:
    """Compute the maps to beat by name, where the pixels to remove first have the highest values.

    Args:
        network: the trained network; its weights are restored afterwards.
        explainer: the explainer of that network.
        patches: uint8 (patches, height, width, 3).
        called: 1 if the patch is called positive, else 0.
        seed: seed of the random weights.
    """
    with random_weights(network, seed):
        maps = explainer.maps(patches)
    return {
        DARKNESS: darkness(patches, explainer.cut.shape[:2]),
        RANDOM_WEIGHTS: orient_maps(np.nan_to_num(maps, posinf=0.0, neginf=0.0), called),
    }


def orient_maps(maps: Maps, called: Codes) -> Maps:
    """Change the sign of maps where needed, so that they show evidence for the class that each patch is called."""
    return np.where(called[:, np.newaxis, np.newaxis] == 1, maps, -maps)


def darkness(patches: Patches, places: tuple[int, int]) -> Maps:
    """Compute how dark each pixel's surroundings are, 0 to 255, at the resolution of the maps to compare with.

    Args:
        patches: uint8 (patches, height, width, 3).
        places: height and width of the maps to compare with, before they are enlarged.
    """
    grey = 255.0 - patches @ np.array(GREY)
    sigmas = [side / count / 2 for side, count in zip(patches.shape[1:3], places, strict=True)]  # half a place
    return np.asarray(gaussian_filter(grey, (0, *sigmas), mode="nearest"), np.float32)


@contextmanager
def random_weights(network: keras.Model, seed: int) -> Iterator[None]:
    """Give a network random weights temporarily: He's normal initialisation (He et al. 2015), new batch norms."""
    kept = network.get_weights()
    generator = np.random.Generator(np.random.Philox(key=[seed, 2]))
    network.set_weights(
        [_initial_value(variable.name, value.shape, generator) for variable, value in _pair_variables(network, kept)]
    )
    try:
        yield
    finally:
        network.set_weights(kept)


def _pair_variables(network: keras.Model, values: list[np.ndarray]) -> Iterator[tuple[keras.Variable, np.ndarray]]:
    return zip(network.weights, values, strict=True)


def _initial_value(name: str, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    if len(shape) < 2:
        return np.full(shape, float(any(part in name for part in ONES)), np.float32)
    inputs = np.prod(shape[:-2] if "depthwise" in name else shape[:-1])
    return generator.normal(0.0, np.sqrt(2 / inputs), shape).astype(np.float32)
