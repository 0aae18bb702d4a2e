"""Profiles of cases: the quantiles of each feature over a case's patches.

The distance between two profiles, or between their means, is the Wasserstein distance of their distributions. So a
reference needs neither the patches nor the store: a few kilobytes are stored with the model.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histopipe.core.errors import MonitoringError
from histopipe.evaluation.drift.features import COLOUR_FEATURES, FEATURES, PROBABILITY, colour_features

Numbers = NDArray[np.float64]

REFERENCE_FILE = "reference.parquet"  # in an evaluation's folder and in the served model that it logs
LEVELS: Numbers = (np.arange(25) + 0.5) / 25  # levels of the quantiles
QUANTILES = [f"q{100 * level:02.0f}" for level in LEVELS]


def case_profiles(features: pd.DataFrame, cases: pd.Series) -> pd.DataFrame:
    """Compute the quantiles of each feature by case.

    Args:
        features: one row per patch, one column per feature.
        cases: the case of each patch.

    Returns:
        One row per case and feature: `case_id`, `feature`, `patches`, and the columns `QUANTILES`.
    """
    values = features.to_numpy(float)
    places = [
        (str(case), np.asarray(rows))
        for case, rows in cases.reset_index(drop=True).groupby(cases.to_numpy()).indices.items()
    ]
    quantiles = [np.quantile(values[rows], LEVELS, axis=0).T for _, rows in places]
    table = pd.DataFrame(np.concatenate(quantiles), columns=QUANTILES)
    count = len(features.columns)
    table.insert(0, "case_id", np.repeat([case for case, _ in places], count))
    table.insert(1, "feature", list(features.columns) * len(places))
    table.insert(2, "patches", np.repeat([len(rows) for _, rows in places], count))
    return table


def reference_profiles(index: pd.DataFrame, split: pd.Series, predictions: pd.DataFrame) -> pd.DataFrame:
    """Compute the profiles that new patches are compared with.

    Colours come from the training cases. Probabilities come from validation and test, since a network is too sure of
    the patches it was trained on.

    Args:
        index: the store's index.
        split: the split of each patch, see `split_of_patches`.
        predictions: predictions of validation and test, with `case_id` and `probability`.
    """
    trained = (split == "train").to_numpy()
    colours = case_profiles(colour_features(index[trained]), index.loc[trained, "case_id"])
    probabilities = case_profiles(predictions[[PROBABILITY]], predictions["case_id"])
    return pd.concat([colours, probabilities], ignore_index=True)


def new_profiles(table: pd.DataFrame) -> pd.DataFrame:
    """Compute the profiles of new patches from a table with `case_id`, colour statistics and `probability`."""
    features = colour_features(table).assign(**{PROBABILITY: table[PROBABILITY]})
    return case_profiles(features[[*COLOUR_FEATURES, PROBABILITY]], table["case_id"])


def read_profiles(path: Path) -> pd.DataFrame:
    """Read profiles from a Parquet file.

    Raises:
        MonitoringError: the profiles can't be read, or lack a feature.
    """
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as problem:
        raise MonitoringError(f"{path} can't be read ({' '.join(str(problem).split())}): evaluate again") from None
    if not {"case_id", "feature", "patches", *QUANTILES} <= set(table) or not set(FEATURES) <= set(table["feature"]):
        raise MonitoringError(f"{path} holds no profiles of {', '.join(FEATURES)}: evaluate again")
    return table


def thin_profiles(quantiles: Numbers, patches: NDArray[np.int64], counts: NDArray[np.int64], seed: int) -> Numbers:
    """Simulate the profiles of reference cases with as few patches as the new cases have.

    A profile of few patches is farther from the others by chance alone. Otherwise new cases of few patches would be
    compared with reference cases of many.

    Args:
        quantiles: profiles of the reference cases, (cases, levels).
        patches: number of patches behind each profile, (cases,).
        counts: the new cases' numbers of patches, from which one is drawn for each reference case.
        seed: seed of the draws.

    Returns:
        The profiles, (cases, levels); those of cases with few patches are unchanged.
    """
    random = np.random.default_rng(seed)
    numbers = random.choice(counts, len(quantiles))
    result = quantiles.copy()
    for case in np.flatnonzero(numbers < patches):
        drawn = np.interp(random.random(numbers[case]), LEVELS, quantiles[case])
        result[case] = np.quantile(drawn, LEVELS)
    return result
