"""What drift is looked for in: a few numbers of every patch, from its colour statistics and its probability."""

from __future__ import annotations

import pandas as pd

from histopipe.colours import COLOURS

COLOUR_FEATURES = ("brightness", "contrast", "red", "blue")
PROBABILITY = "probability"
FEATURES = (*COLOUR_FEATURES, PROBABILITY)
DESCRIBED = {
    "brightness": "mean grey level, 0 to 255",
    "contrast": "standard deviation of grey levels within a patch",
    "red": "red's share of the mean colour",
    "blue": "blue's share of the mean colour",
    PROBABILITY: "calibrated probability",
}

_CHANNELS = len(COLOURS) // 2  # the means come first, then the standard deviations


def colour_features(table: pd.DataFrame) -> pd.DataFrame:
    """Brightness, contrast and colour balance of each patch.

    A darker scan moves the brightness, blurring the contrast, another stain the balance, which brightness leaves
    alone: the three channels themselves mostly rise and fall together.

    Args:
        table: with the columns `COLOURS`, as a store's index and a grading of new patches have them.
    """
    means, deviations = table[COLOURS[:_CHANNELS]].astype(float), table[COLOURS[_CHANNELS:]].astype(float)
    total = means.sum(axis=1).clip(lower=1.0)  # a black patch has no colour
    return pd.DataFrame(
        {
            "brightness": means.mean(axis=1),
            "contrast": deviations.mean(axis=1),
            "red": means["red_mean"] / total,
            "blue": means["blue_mean"] / total,
        }
    )
