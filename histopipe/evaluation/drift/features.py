"""What drift is looked for in: a few numbers of every patch, from its colour statistics and its probability."""

from __future__ import annotations

import numpy as np
import pandas as pd

from histopipe.core.colours import COLOURS

COLOUR_FEATURES = ("brightness", "contrast", "red", "blue")
PROBABILITY = "probability"
FEATURES = (*COLOUR_FEATURES, PROBABILITY)
DESCRIBED = {
    "brightness": "mean grey level, 0 to 255",
    "contrast": "standard deviation of grey levels within a patch",
    "red": "red's share of the light absorbed",
    "blue": "blue's share of the light absorbed",
    PROBABILITY: "calibrated probability",
}

LEAST_DENSITY = 0.05  # of all channels together; an empty patch has no colour
_CHANNELS = len(COLOURS) // 2  # the means come first, then the standard deviations


def colour_features(table: pd.DataFrame) -> pd.DataFrame:
    """Brightness, contrast and stain of each patch.

    A darker scan moves the brightness, blurring the contrast, another stain the shares of the light absorbed (optical
    density, in which stains add up): haematoxylin takes much red, eosin hardly any. The three channels themselves
    mostly rise and fall together, with the amount of tissue.

    Args:
        table: with the columns `COLOURS`, as a store's index and a grading of new patches have them.
    """
    means, deviations = table[COLOURS[:_CHANNELS]].astype(float), table[COLOURS[_CHANNELS:]].astype(float)
    densities = -np.log((means + 1) / 256)
    total = densities.sum(axis=1).clip(lower=LEAST_DENSITY)
    return pd.DataFrame(
        {
            "brightness": means.mean(axis=1),
            "contrast": deviations.mean(axis=1),
            "red": densities["red_mean"] / total,
            "blue": densities["blue_mean"] / total,
        }
    )
