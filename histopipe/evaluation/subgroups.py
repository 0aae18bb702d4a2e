"""The same metrics for parts of the test split: where a model is worse than its mean."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from histopipe.evaluation.cases import counted_cases
from histopipe.evaluation.intervals import estimate_metrics
from histopipe.evaluation.metrics import Codes, Predictions

SUBGROUP_METRICS = ("roc_auc", "balanced_accuracy", "sensitivity", "specificity", "calibration_error")


def subgroup_table(table: pd.DataFrame, groups: Mapping[str, pd.Series], resamples: int, seed: int) -> pd.DataFrame:
    """Every metric of `SUBGROUP_METRICS`, with its interval, for every level of every group.

    Args:
        table: the test patches, as `predictions.parquet` has them.
        groups: by name, each patch's level; the same rows as `table`. A group with one level only is left out.
        resamples: of cases behind each interval.
        seed: decides which cases they draw.

    Returns:
        Columns `group,level,cases,patches,positives` and for each metric `M,M_low,M_high`, missing where undefined.
    """
    rows = [
        {"group": name, "level": str(level), **_graded(table[levels == level], resamples, seed)}
        for name, levels in groups.items()
        if levels.nunique() > 1
        for level in sorted(levels.dropna().unique())
    ]
    return pd.DataFrame(rows, columns=["group", "level", "cases", "patches", "positives", *_metric_columns()])


def _metric_columns() -> list[str]:
    return [f"{name}{end}" for name in SUBGROUP_METRICS for end in ("", "_low", "_high")]


def _graded(part: pd.DataFrame, resamples: int, seed: int) -> dict[str, int | float | None]:
    predictions = Predictions.of(part["label"], part["probability"], part["decision"], counted_cases(part))
    found = estimate_metrics(predictions, resamples, seed)
    counts = {"cases": predictions.case_count, "patches": len(part), "positives": int(part["label"].sum())}
    ends = {"": "value", "_low": "low", "_high": "high"}
    return counts | {f"{name}{end}": found[name][key] for name in SUBGROUP_METRICS for end, key in ends.items()}


def patch_groups(
    index: pd.DataFrame, rows: Codes, clusters: pd.Series | None, patch_size: tuple[int, int]
) -> dict[str, pd.Series]:
    """What divides patches into subgroups, as far as the index tells it.

    Args:
        index: the store's.
        rows: of the patches wanted.
        clusters: stain cluster of every row of the index, if there are any.
        patch_size: height and width that the store keeps; what was smaller as found is `undersized`.

    Returns:
        By name of the group, the level of each patch; the row labels are 0 to the number of patches.
    """
    found = {name: index[name] for name in ("magnification", "subtype") if name in index}
    if clusters is not None:
        found["stain cluster"] = clusters
    if {"height", "width"} <= set(index.columns):
        small = (index["height"] < patch_size[0]) | (index["width"] < patch_size[1])
        found["size as found"] = small.map({True: "undersized", False: "full"})
    return {name: levels.iloc[rows].reset_index(drop=True) for name, levels in found.items()}
