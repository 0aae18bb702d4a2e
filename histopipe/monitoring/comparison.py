"""The comparison of new cases with the reference: how far each feature has moved, and whether that is drift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from histopipe.core.cases.ids import is_among
from histopipe.core.errors import MonitoringError
from histopipe.core.params import MonitorParams
from histopipe.evaluation.drift.features import COLOUR_FEATURES, PROBABILITY
from histopipe.evaluation.drift.profiles import QUANTILES, thin_profiles
from histopipe.monitoring.distances import Curves, Numbers, least_p_value, p_values
from histopipe.monitoring.record import Verdict

GROUPS: tuple[tuple[str, ...], ...] = (COLOUR_FEATURES, (PROBABILITY,))  # the reference cases of the two differ


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison.

    Attributes:
        verdict: the verdict; `undecided` if there are so few cases that no difference could be significant.
        features: one row per feature: `feature`, `distance` (Wasserstein, in standard deviations of the reference's
            patches), `chance` (adjusted p-value), `reference_cases`, the medians `reference` and `new`, `drifted`.
        cases: one row per new case: `case_id`, `patches`, and for each feature the case's distance to the reference
            (`NAME_distance`) and the share of reference cases that are as far from the others (`NAME_rank`).
        left_out: number of new cases with too few patches.
        shared: number of new cases that are in the reference too, and were removed from it.
    """

    verdict: Verdict
    features: pd.DataFrame
    cases: pd.DataFrame
    left_out: int
    shared: int

    @property
    def drifted(self) -> list[str]:
        """The features that have drifted."""
        return list(self.features.loc[self.features["drifted"], "feature"])


def compare_profiles(
    reference: pd.DataFrame, new: pd.DataFrame, params: MonitorParams, seed: int, dataset: str = ""
) -> Comparison:
    """Compare the profiles of new cases with those of a reference.

    A feature has drifted if its distance is above `max_distance`, and the p-value of that distance is at most
    `max_chance`, adjusted for the features of a group (maxT) and for the groups (Bonferroni).

    Args:
        reference: profiles of the model's cases.
        new: profiles of the new cases.
        params: the limits.
        seed: seed of the random exchanges.
        dataset: name of the data set, whose ids may be read in two ways.

    Raises:
        MonitoringError: no new case has enough patches, or too few reference cases have.

    Example:
        >>> reference = read_profiles(Path("evaluations/idc/cancernet/reference.parquet"))
        >>> compare_profiles(reference, new_profiles(predictions), MonitorParams(), seed=0).verdict
        'none'
    """
    judged = new[new["patches"] >= params.min_patches]
    if judged.empty:
        raise MonitoringError(
            f"no new case has {params.min_patches} patches: provide more patches, or lower monitor.min_patches"
        )
    again = is_among(reference["case_id"], judged["case_id"].unique(), dataset)
    kept = reference[(reference["patches"] >= params.min_patches) & ~again]
    parts = [_compare_group(kept, judged, group, params, seed) for group in GROUPS]
    features = pd.concat([part for part, _ in parts], ignore_index=True)
    cases = pd.concat([part for _, part in parts], axis=1).rename_axis("case_id").reset_index()
    counts = judged.drop_duplicates("case_id").set_index("case_id")["patches"]
    cases.insert(1, "patches", cases["case_id"].map(counts))
    left_out = new["case_id"].nunique() - len(cases)
    return Comparison(
        _verdict(features, len(cases), params), features, cases, left_out, int(reference["case_id"][again].nunique())
    )


def _verdict(features: pd.DataFrame, new: int, params: MonitorParams) -> Verdict:
    if features["drifted"].any():
        return "drift"
    least = min(least_p_value(count, new) for count in features["reference_cases"]) * len(GROUPS)
    return "none" if least <= params.max_chance else "undecided"


def _compare_group(
    reference: pd.DataFrame, new: pd.DataFrame, group: Sequence[str], params: MonitorParams, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare the features of one group; return a row per feature, and columns for the cases, indexed by case id."""
    pairs = [(_profiles_of(reference, name), _profiles_of(new, name)) for name in group]
    if len(pairs[0][0]) < 2:
        raise MonitoringError(
            f"the reference has {len(pairs[0][0])} other cases of {params.min_patches} patches for {group[0]}, "
            "which is too few for a comparison: provide cases that the model wasn't made from"
        )
    curves = [_curves(old, fresh, seed) for old, fresh in pairs]
    distances, chance = p_values(curves, seed)
    chance = np.minimum(1.0, chance * len(GROUPS))
    rows = pd.DataFrame(
        {
            "feature": group,
            "distance": distances,
            "chance": chance,
            "drifted": (distances > params.max_distance) & (chance <= params.max_chance),
            "reference_cases": [len(old) for old, _ in pairs],
            "reference": [float(np.median(old[QUANTILES])) for old, _ in pairs],
            "new": [float(np.median(fresh[QUANTILES])) for _, fresh in pairs],
        }
    )
    columns = [
        _case_columns(curve, name, fresh.index) for curve, name, (_, fresh) in zip(curves, group, pairs, strict=True)
    ]
    return rows, pd.concat(columns, axis=1)


def _profiles_of(profiles: pd.DataFrame, feature: str) -> pd.DataFrame:
    return profiles[profiles["feature"] == feature].set_index("case_id")


def _curves(reference: pd.DataFrame, new: pd.DataFrame, seed: int) -> Curves:
    counts = new["patches"].to_numpy()
    old = thin_profiles(reference[QUANTILES].to_numpy(float), reference["patches"].to_numpy(), counts, seed)
    return Curves.from_profiles(old, new[QUANTILES].to_numpy(float))


def _case_columns(curves: Curves, feature: str, cases: pd.Index) -> pd.DataFrame:
    """Return the distance of every new case, and its rank among the distances of reference cases to the others."""
    distances = curves.of_cases()
    old, fresh = distances[: curves.reference], distances[curves.reference :]
    return pd.DataFrame({f"{feature}_distance": fresh, f"{feature}_rank": rank_among(old, fresh)}, index=cases)


def rank_among(old: Numbers, fresh: Numbers) -> Numbers:
    """Return, for each new distance, the share of reference cases (and the case itself) that are as far away."""
    return np.asarray((1 + (old[None, :] >= fresh[:, None]).sum(axis=1)) / (1 + len(old)))
