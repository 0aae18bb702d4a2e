"""Colours of a case's two stains: hue, strength and light differ between laboratories and between cases."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from histopipe.ingest.synthetic.textures import NOISE, Bytes

# Optical densities of haematoxylin and eosin in red, green and blue, the density of the darkest pixel in a
# hundred, and how they vary: from 153 cases of Kaggle's set, the stains separated as in Macenko et al. 2009.
_HAEMATOXYLIN = (0.55, 0.72, 0.42)
_EOSIN = (0.16, 0.83, 0.53)
_COLOUR_SPREAD = 0.05
_STRENGTHS = (1.7, 1.35)
_STRENGTH_SPREAD = 0.2  # of the logarithm


def draw_stain_table(generator: np.random.Generator) -> Bytes:
    """Draw the stains of one case and compute the colour of every pair of amounts.

    Returns:
        uint8 (65536, 3). Row `256 h + e` is the RGB colour of the amounts h of haematoxylin and e of eosin. The top
        `NOISE` grey levels stay unused, for the camera's noise.
    """
    amounts = np.arange(256) / 255.0
    strengths = np.exp(_STRENGTH_SPREAD * generator.standard_normal(2)) * _STRENGTHS
    haematoxylin = strengths[0] * _vary(_HAEMATOXYLIN, generator)
    eosin = strengths[1] * _vary(_EOSIN, generator)
    densities = amounts[:, None, None] * haematoxylin + amounts[None, :, None] * eosin
    light = generator.uniform(224, 255 - NOISE) * generator.uniform(0.985, 1.0, 3)
    colours: Bytes = np.rint(light * np.exp(-densities)).astype(np.uint8).reshape(-1, 3)
    return colours


def _vary(stain: tuple[float, float, float], generator: np.random.Generator) -> NDArray[np.float64]:
    vector = np.maximum(np.array(stain) + _COLOUR_SPREAD * generator.standard_normal(3), 0.02)
    return np.asarray(vector / np.linalg.norm(vector))
