"""Metrics per case: a mean over patches hides a case on which a model fails."""

from __future__ import annotations

import numpy as np
import pandas as pd

from histopipe.evaluation.metrics import Codes, Numbers, Predictions

JOINED = "joined_case"  # column of predictions if ids share patches: the first of the ids that are one case


def counted_cases(table: pd.DataFrame) -> pd.Series:
    """Return the case of each patch as intervals and tests count it: ids that share patches are one case.

    Args:
        table: predictions with `case_id`, and with `JOINED` if any ids are joined.
    """
    return table[JOINED] if JOINED in table else table["case_id"]


def patch_columns(table: pd.DataFrame) -> list[str]:
    """Return the names of the columns that describe a patch and not its prediction: `file,case_id,split,label`.

    Args:
        table: predictions.
    """
    return ["file", "case_id", "split", "label", *([JOINED] if JOINED in table else [])]


def joined_cases(index: pd.DataFrame) -> pd.Series | None:
    """Return the case of each patch, where ids that share identical patches become their first id.

    Two copies of one slide get the same predictions. If they counted as two cases, intervals would be too narrow.

    Args:
        index: rows of the store's index.

    Returns:
        The case of each row; None if no ids share patches.
    """
    from histopipe.data.splitting.copies import join_copies

    first = join_copies(index).first
    return index["case_id"].map(lambda case: first.get(case, case)) if first else None


def case_table(predictions: Predictions, case_ids: pd.Series) -> pd.DataFrame:
    """Compute the metrics of each case, the one with the lowest accuracy first.

    Args:
        predictions: predictions of patches.
        case_ids: case ids of the same patches.

    Returns:
        Columns `case_id`, `patches`, `positives`, `called` (positive), `mean_probability`, `accuracy`,
        `balanced_accuracy`, `roc_auc`, `sensitivity` and `specificity`. A metric that a case leaves undefined, because
        it holds one class only, is missing.

    Example:
        >>> ids = pd.Series(["a", "a", "b", "b"])
        >>> predictions = Predictions.from_arrays([0, 1, 0, 1], [0.1, 0.9, 0.6, 0.8], [0, 1, 1, 1], ids)
        >>> case_table(predictions, ids)["accuracy"].tolist()
        [0.5, 1.0]
    """
    names = np.unique(np.asarray(case_ids, dtype=str))  # in the order in which `Predictions.from_arrays` numbers them
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
    """Compute the area under each case's own ROC curve from the ranks of its patches (Mann & Whitney 1947)."""
    ranks = pd.Series(predictions.probabilities).groupby(predictions.cases).rank().to_numpy()
    above = predictions.per_case(ranks * predictions.labels) - positives * (positives + 1) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        areas: Numbers = above / (positives * negatives)
    return areas


def colour_clusters(index: pd.DataFrame, reference: Codes, count: int, seed: int) -> pd.Series | None:
    """Assign each patch the stain cluster of its case, by k-means on the mean colours of cases; `1` is the darkest.

    Args:
        index: the store's index, with colour statistics.
        reference: rows whose cases the clusters are fitted to: training cases, so that test cases don't shape them.
        count: number of clusters.
        seed: seed of k-means.

    Returns:
        One name per row of the index; None if there are fewer cases than clusters, or no colour statistics.
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
    number = np.argsort(np.argsort(means)) + 1  # from dark to light
    named = pd.Series([f"{number[cluster]} of {count}" for cluster in clusters.predict(colours)], colours.index)
    return index["case_id"].map(named)
