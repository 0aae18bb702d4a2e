"""Predictions from a patch and its neighbours: tumour occurs in areas, a network's errors are often single patches.

A logistic regression combines the log odds of a patch with those of the patches around it, in four rings: those that
share an edge, those at the corners, the rest of the 5 x 5, and all within six sides, which is what a sparse sample of a
slide has. A missing neighbour adds nothing. The regression is fitted on validation cases alone. The prediction for a
validation patch comes from a fit without that patch's case (stacking, Wolpert 1992, "Stacked generalization"), so that
calibration and threshold can be chosen there as for any other model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histopipe.core.errors import EvaluationError
from histopipe.evaluation.calibration import log_odds
from histopipe.evaluation.cases import counted_cases, patch_columns
from histopipe.evaluation.metrics import Codes, Numbers

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

# Distances between upper left corners, in sides of a patch. On a grid they are 1; 1.41; 2 to 2.83; 3 to 6. The limits
# are about halfway to the next distance, so that patches which are slightly off the grid do no harm.
OUTER_RADII = (1.2, 1.7, 2.9, 6.05)
POSITIONS = (4, 4, 16, 88)  # number of positions in each ring of a complete neighbourhood on a grid
SUREST = 8.0  # most log odds that a single patch contributes


def neighbourhood_logits(predictions: pd.DataFrame, index: pd.DataFrame) -> pd.DataFrame:
    """Compute log odds of each patch from its own probability and those of its neighbours.

    Args:
        predictions: predictions of one network, as in `predictions.parquet`; only labels of validation are used.
        index: the store's index, with the patches' coordinates.

    Returns:
        A table with `patch_columns` and `logit`.

    Raises:
        EvaluationError: there are no neighbours, or too few validation cases for a fit.
    """
    table = predictions[patch_columns(predictions)].reset_index(drop=True)
    own = np.clip(log_odds(predictions["probability"].to_numpy()), -SUREST, SUREST)
    validation = (table["split"] == "validation").to_numpy()
    around = surroundings(table["case_id"], _places(table, index), own - own[validation].mean())
    if not around[validation].any():
        raise EvaluationError(f"no validation patch has another one within {OUTER_RADII[-1]:.0f} sides")
    features, labels = np.column_stack([own, around]), table["label"].to_numpy()
    logit = np.empty(len(table))
    logit[validation] = _predict_without_own_case(
        features[validation], labels[validation], counted_cases(table)[validation]
    )
    if not validation.all():
        fitted = _model().fit(features[validation], labels[validation])
        logit[~validation] = fitted.decision_function(features[~validation])
    return table.assign(logit=logit)


def _places(table: pd.DataFrame, index: pd.DataFrame) -> Numbers:
    """Return the upper left corner of each patch in sides of a patch, (patches, 2); NaN if unknown."""
    if not {"x", "y", "width", "height"} <= set(index.columns):
        raise EvaluationError("the patches have no coordinates")
    corners = index.set_index("file").loc[table["file"], ["x", "y", "width", "height"]]
    places: Numbers = corners.to_numpy(np.float64, na_value=np.nan)
    if np.isnan(places[:, :2]).any(axis=1).all():
        raise EvaluationError("the patches have no coordinates")
    return places[:, :2] / np.nanmedian(places[:, 2:])  # smaller ones at the edge of a slide are few


def surroundings(case_ids: pd.Series, places: Numbers, evidence: Numbers) -> Numbers:
    """Average the evidence around each patch, ring by ring.

    Args:
        case_ids: the case of each patch; only patches of the same case are neighbours.
        places: coordinates of each patch in sides of a patch, (patches, 2); NaN if unknown.
        evidence: contribution of each patch to its neighbours, (patches,); a missing neighbour contributes 0.

    Returns:
        Mean evidence over each ring's positions, (patches, rings).
    """
    means = np.zeros((len(places), len(OUTER_RADII)))
    placed = np.flatnonzero(~np.isnan(places).any(axis=1))
    for members in case_ids.iloc[placed].groupby(case_ids.iloc[placed].to_numpy()).indices.values():
        rows = placed[members]
        means[rows] = _rings(places[rows], evidence[rows])
    return means


def _rings(places: Numbers, evidence: Numbers) -> Numbers:
    """Average the evidence around the patches of one case; divide by the number of patches if it exceeds the grid's."""
    from scipy.spatial import KDTree

    pairs = KDTree(places).query_pairs(OUTER_RADII[-1], output_type="ndarray")
    patch, other = np.concatenate([pairs, pairs[:, ::-1]]).T
    ring = np.searchsorted(OUTER_RADII[:-1], np.linalg.norm(places[patch] - places[other], axis=1))
    cell, size = patch * len(OUTER_RADII) + ring, len(places) * len(OUTER_RADII)
    shape = (len(places), len(OUTER_RADII))
    sums = np.bincount(cell, evidence[other], size).reshape(shape)
    return sums / np.maximum(np.bincount(cell, minlength=size).reshape(shape), POSITIONS)


def _model() -> Pipeline:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression())


def _predict_without_own_case(features: Numbers, labels: Codes, case_ids: pd.Series) -> Numbers:
    """Predict the log odds of each patch by a model that was fitted without its case."""
    from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict

    if any(case_ids[labels == label].nunique() < 2 for label in (0, 1)):
        raise EvaluationError("validation needs two cases with patches of each class")
    folds = LeaveOneGroupOut()
    logits: Numbers = cross_val_predict(
        _model(), features, labels, groups=case_ids, cv=folds, method="decision_function"
    )
    return logits
