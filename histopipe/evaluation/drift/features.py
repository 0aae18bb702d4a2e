"""The features in which monitoring looks for drift, from a patch's colour statistics and its probability."""

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

LEAST_DENSITY = 0.05  # sum over all channels; an empty patch has no colour
_CHANNELS = len(COLOURS) // 2  # the means come first, then the standard deviations


def colour_features(table: pd.DataFrame) -> pd.DataFrame:
    """Compute brightness, contrast and stain features of each patch.

    A darker scan changes the brightness, blurring changes the contrast, and another stain changes the shares of the
    light absorbed (optical density, in which stains add up): haematoxylin absorbs much red, eosin hardly any. The three
    channels themselves mostly rise and fall together, with the amount of tissue.

    Args:
        table: a table with the columns `COLOURS`, such as a store's index or predictions of new patches.

    Returns:
        A table with the columns `COLOUR_FEATURES`.
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
