"""Metrics of parts of the test split, which show where a model is worse than on average."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from histopipe.evaluation.cases import counted_cases
from histopipe.evaluation.intervals import estimate_metrics
from histopipe.evaluation.metrics import Codes, Predictions

SUBGROUP_METRICS = ("roc_auc", "balanced_accuracy", "sensitivity", "specificity", "calibration_error")


def subgroup_table(table: pd.DataFrame, groups: Mapping[str, pd.Series], resamples: int, seed: int) -> pd.DataFrame:
    """Compute every metric of `SUBGROUP_METRICS`, with its interval, for every level of every group.

    Args:
        table: predictions of the test patches, as in `predictions.parquet`.
        groups: each patch's level by name of the group, for the rows of `table`. A group with a single level is left
            out.
        resamples: number of resamples for each interval.
        seed: seed of the resampling.

    Returns:
        Columns `group,level,cases,patches,positives` and for each metric `M,M_low,M_high`, missing if undefined.
    """
    rows = [
        {"group": name, "level": str(level), **_evaluate_part(table[levels == level], resamples, seed)}
        for name, levels in groups.items()
        if levels.nunique() > 1
        for level in sorted(levels.dropna().unique())
    ]
    return pd.DataFrame(rows, columns=["group", "level", "cases", "patches", "positives", *_metric_columns()])


def _metric_columns() -> list[str]:
    return [f"{name}{end}" for name in SUBGROUP_METRICS for end in ("", "_low", "_high")]


def _evaluate_part(part: pd.DataFrame, resamples: int, seed: int) -> dict[str, int | float | None]:
    predictions = Predictions.from_arrays(part["label"], part["probability"], part["decision"], counted_cases(part))
    metrics = estimate_metrics(predictions, resamples, seed)
    counts = {"cases": predictions.case_count, "patches": len(part), "positives": int(part["label"].sum())}
    ends = {"": "value", "_low": "low", "_high": "high"}
    return counts | {f"{name}{end}": metrics[name][key] for name in SUBGROUP_METRICS for end, key in ends.items()}


def patch_groups(
    index: pd.DataFrame, rows: Codes, clusters: pd.Series | None, patch_size: tuple[int, int]
) -> dict[str, pd.Series]:
    """Divide patches into subgroups by the columns of the store's index.

    Args:
        index: the store's index.
        rows: rows of the patches in the index.
        clusters: stain cluster of every row of the index, if there are any.
        patch_size: height and width of stored patches; patches that were smaller before are `undersized`.

    Returns:
        The level of each patch by name of the group, with row labels from 0.
    """
    groups = {name: index[name] for name in ("magnification", "subtype") if name in index}
    if clusters is not None:
        groups["stain cluster"] = clusters
    if {"height", "width"} <= set(index.columns):
        small = (index["height"] < patch_size[0]) | (index["width"] < patch_size[1])
        groups["size as found"] = small.map({True: "undersized", False: "full"})
    return {name: levels.iloc[rows].reset_index(drop=True) for name, levels in groups.items()}
