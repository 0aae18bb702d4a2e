"""Numbers per case: a mean over patches hides the case on which a model fails."""

from __future__ import annotations

import numpy as np
import pandas as pd

from histopipe.evaluation.metrics import Codes, Numbers, Predictions

JOINED = "joined_case"  # column of graded patches, where ids share patches: the first id of those that are one case


def counted_cases(table: pd.DataFrame) -> pd.Series:
    """Return the case of each patch as intervals and tests count it: ids that share patches are one case.

    Args:
        table: graded patches: `case_id`, and `JOINED` where any ids are joined.
    """
    return table[JOINED] if JOINED in table else table["case_id"]


def patch_columns(table: pd.DataFrame) -> list[str]:
    """Return the columns that say what a graded patch is, whatever a model answers: `file,case_id,split,label`.

    Args:
        table: graded patches.
    """
    return ["file", "case_id", "split", "label", *([JOINED] if JOINED in table else [])]


def joined_cases(index: pd.DataFrame) -> pd.Series | None:
    """Return the case of each patch, ids that share patches pixel by pixel under their first; None where none do.

    Two copies of one slide are answered alike, so that intervals would be too narrow if they counted as two cases.

    Args:
        index: rows of the store's.
    """
    from histopipe.data.splitting.copies import join_copies

    first = join_copies(index).first
    return index["case_id"].map(lambda case: first.get(case, case)) if first else None


def case_table(predictions: Predictions, case_ids: pd.Series) -> pd.DataFrame:
    """Each case by itself, the one with the lowest accuracy first.

    Args:
        predictions: the graded patches.
        case_ids: of the same patches; names what `predictions` numbers.

    Returns:
        Columns `case_id`, `patches`, `positives`, `called` (positive), `mean_probability`, `accuracy`,
        `balanced_accuracy`, `roc_auc`, `sensitivity` and `specificity`; a metric
        that a case leaves undefined, as it does where it holds one class only, is missing.
    """
    names = np.unique(np.asarray(case_ids, dtype=str))  # numbered in this order, see `Predictions.of`
    label, decision = predictions.labels == 1, predictions.decisions == 1
    hits, false_alarms, positives, negatives = (
        predictions.per_case(patches) for patches in (label & decision, ~label & decision, label, ~label)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        sensitivity, specificity = hits / positives, 1 - false_alarms / negatives
    patches = positives + negatives
    table = pd.DataFrame(
        {
            "case_id": names,
            "patches": patches.astype(int),
            "positives": positives.astype(int),
            "called": (hits + false_alarms).astype(int),
            "mean_probability": predictions.per_case(predictions.probabilities) / patches,
            "accuracy": (hits + negatives - false_alarms) / patches,
            "balanced_accuracy": (sensitivity + specificity) / 2,
            "roc_auc": _areas(predictions, positives, negatives),
            "sensitivity": sensitivity,
            "specificity": specificity,
        }
    )
    return table.sort_values(["accuracy", "case_id"], kind="stable").reset_index(drop=True)


def _areas(predictions: Predictions, positives: Numbers, negatives: Numbers) -> Numbers:
    """Area under each case's own ROC curve, from the ranks of its patches (Mann & Whitney 1947)."""
    ranks = pd.Series(predictions.probabilities).groupby(predictions.cases).rank().to_numpy()
    above = predictions.per_case(ranks * predictions.labels) - positives * (positives + 1) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        areas: Numbers = above / (positives * negatives)
    return areas


def colour_clusters(index: pd.DataFrame, reference: Codes, count: int, seed: int) -> pd.Series | None:
    """Stain cluster of each patch's case, `1` the darkest: k-means on the mean colours of cases.

    Args:
        index: the store's, with its colour statistics.
        reference: rows whose cases the clusters are fitted to: those trained on, so that test cases don't shape them.
        count: of clusters.
        seed: of k-means.

    Returns:
        One name per row of the index; None where there are fewer cases than clusters, or no colour statistics.
    """
    from sklearn.cluster import KMeans

    columns = [f"{channel}_{statistic}" for statistic in ("mean", "std") for channel in ("red", "green", "blue")]
    if not set(columns) <= set(index.columns):
        return None
    colours = index.groupby("case_id")[columns].mean()
    fitted = colours.loc[index["case_id"].iloc[reference].unique()]
    if len(fitted) < count:
        return None
    clusters = KMeans(count, n_init=10, random_state=seed).fit(fitted)
    means: Numbers = clusters.cluster_centers_[:, :3].mean(axis=1)
    place = np.argsort(np.argsort(means)) + 1
    named = pd.Series([f"{place[found]} of {count}" for found in clusters.predict(colours)], colours.index)
    return index["case_id"].map(named)
