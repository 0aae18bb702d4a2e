"""Profiles: what is kept of a case's patches, the quantiles of each feature.

Two profiles, or means of them, are as far apart as the distributions behind them (Wasserstein), so a reference needs
neither the patches nor the store: a few kilobytes travel with the model.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histopipe.core.errors import MonitoringError
from histopipe.evaluation.drift.features import COLOUR_FEATURES, FEATURES, PROBABILITY, colour_features

Numbers = NDArray[np.float64]

REFERENCE_FILE = "reference.parquet"  # of an evaluation, and of the served model that it logs
LEVELS: Numbers = (np.arange(25) + 0.5) / 25  # of the quantiles
QUANTILES = [f"q{100 * level:02.0f}" for level in LEVELS]


def case_profiles(features: pd.DataFrame, cases: pd.Series) -> pd.DataFrame:
    """Quantiles of each feature by case.

    Args:
        features: one row per patch, one column per feature.
        cases: the case of each patch.

    Returns:
        One row per case and feature: `case_id`, `feature`, `patches`, and the quantiles, `QUANTILES`.
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
    """What new patches are compared with: colours of the cases that a model learnt from, probabilities of others.

    A network is too sure of the patches it was trained on, so probabilities come from validation and test.

    Args:
        index: of the store.
        split: of each patch, as `split_of_patches` gives it.
        predictions: of validation and test, with `case_id` and `probability`.
    """
    trained = (split == "train").to_numpy()
    colours = case_profiles(colour_features(index[trained]), index.loc[trained, "case_id"])
    probabilities = case_profiles(predictions[[PROBABILITY]], predictions["case_id"])
    return pd.concat([colours, probabilities], ignore_index=True)


def new_profiles(table: pd.DataFrame) -> pd.DataFrame:
    """Profiles of graded patches; `table` has `case_id`, the colour statistics and `probability`."""
    features = colour_features(table).assign(**{PROBABILITY: table[PROBABILITY]})
    return case_profiles(features[[*COLOUR_FEATURES, PROBABILITY]], table["case_id"])


def read_profiles(path: Path) -> pd.DataFrame:
    """Read profiles that were kept as Parquet.

    Raises:
        MonitoringError: they can't be read, or lack a feature.
    """
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as problem:
        raise MonitoringError(f"{path} can't be read ({' '.join(str(problem).split())}): evaluate again") from None
    if not {"case_id", "feature", "patches", *QUANTILES} <= set(table) or not set(FEATURES) <= set(table["feature"]):
        raise MonitoringError(f"{path} holds no profiles of {', '.join(FEATURES)}: evaluate again")
    return table


def thinned(quantiles: Numbers, patches: NDArray[np.int64], wanted: NDArray[np.int64], seed: int) -> Numbers:
    """Profiles of cases as if no more of their patches had been seen than of the new ones.

    A profile of few patches lies farther from the others by chance alone; new cases of few patches would else be
    measured by reference cases of many.

    Args:
        quantiles: profiles, (cases, levels).
        patches: how many patches are behind each.
        wanted: the new cases' numbers of patches, from which each reference case draws one.
        seed: of the draws.
    """
    random = np.random.default_rng(seed)
    numbers = random.choice(wanted, len(quantiles))
    result = quantiles.copy()
    for case in np.flatnonzero(numbers < patches):
        drawn = np.interp(random.random(numbers[case]), LEVELS, quantiles[case])
        result[case] = np.quantile(drawn, LEVELS)
    return result
