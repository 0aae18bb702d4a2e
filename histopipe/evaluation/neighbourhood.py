"""What the patches around a patch tell of it: tumour lies in areas, a network's errors are often single patches.

A logistic regression weighs the log odds of a patch against those of the patches around it, ring by ring: those that
share an edge, those at the corners, the rest of the 5 x 5, and what lies within six sides, which is what a sparse
sample of a slide has. A neighbour that is missing adds nothing. It is fitted on validation cases alone; what it says of
a validation patch comes from a fit without that patch's case (stacking, Wolpert 1992, "Stacked generalization"), so
that calibration and threshold can be chosen there as for any other model.
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

# Between upper left corners, in sides of a patch: on a grid 1; 1.41; 2 to 2.83; 3 to 6. Halfway to the next, so that
# offsets which are a little off the grid do no harm.
OUTER_RADII = (1.2, 1.7, 2.9, 6.05)
POSITIONS = (4, 4, 16, 88)  # on a grid, within each ring: what a whole neighbourhood has
SUREST = 8.0  # log odds that one neighbour can bring to bear


def neighbourhood_logits(predictions: pd.DataFrame, index: pd.DataFrame) -> pd.DataFrame:
    """Log odds of each patch from its own probability and from those around it.

    Args:
        predictions: of one network, as in `predictions.parquet`; no label but those of validation is used.
        index: the store's, with the patches' coordinates.

    Returns:
        `patch_columns` and `logit`.

    Raises:
        EvaluationError: there are no neighbours, or too few validation cases to be fitted on.
    """
    table = predictions[patch_columns(predictions)].reset_index(drop=True)
    own = np.clip(log_odds(predictions["probability"].to_numpy()), -SUREST, SUREST)
    validation = (table["split"] == "validation").to_numpy()
    around = surroundings(table["case_id"], _places(table, index), own - own[validation].mean())
    if not around[validation].any():
        raise EvaluationError(f"no validation patch has another one within {OUTER_RADII[-1]:.0f} sides")
    features, labels = np.column_stack([own, around]), table["label"].to_numpy()
    logit = np.empty(len(table))
    logit[validation] = _without_own_case(features[validation], labels[validation], counted_cases(table)[validation])
    if not validation.all():
        fitted = _model().fit(features[validation], labels[validation])
        logit[~validation] = fitted.decision_function(features[~validation])
    return table.assign(logit=logit)


def _places(table: pd.DataFrame, index: pd.DataFrame) -> Numbers:
    """Upper left corner of each patch in sides of a patch, (patches, 2); NaN where it isn't known."""
    if not {"x", "y", "width", "height"} <= set(index.columns):
        raise EvaluationError("the patches have no coordinates")
    known = index.set_index("file").loc[table["file"], ["x", "y", "width", "height"]]
    places: Numbers = known.to_numpy(np.float64, na_value=np.nan)
    if np.isnan(places[:, :2]).any(axis=1).all():
        raise EvaluationError("the patches have no coordinates")
    return places[:, :2] / np.nanmedian(places[:, 2:])  # smaller ones at the edge of a slide are few


def surroundings(case_ids: pd.Series, places: Numbers, evidence: Numbers) -> Numbers:
    """What speaks for each patch around it, ring by ring.

    Args:
        case_ids: of each patch; only patches of one case are neighbours.
        places: of each patch, in sides, (patches, 2); NaN where it isn't known.
        evidence: what each patch contributes to its neighbours; 0 is what a missing one contributes.

    Returns:
        Mean evidence over each ring's positions, (patches, rings).
    """
    found = np.zeros((len(places), len(OUTER_RADII)))
    placed = np.flatnonzero(~np.isnan(places).any(axis=1))
    for members in case_ids.iloc[placed].groupby(case_ids.iloc[placed].to_numpy()).indices.values():
        rows = placed[members]
        found[rows] = _rings(places[rows], evidence[rows])
    return found


def _rings(places: Numbers, evidence: Numbers) -> Numbers:
    """`surroundings` of one case; where patches overlap and a ring holds more than on a grid, their mean counts."""
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


def _without_own_case(features: Numbers, labels: Codes, case_ids: pd.Series) -> Numbers:
    """Log odds of each patch by a model that hasn't seen its case."""
    from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict

    if any(case_ids[labels == label].nunique() < 2 for label in (0, 1)):
        raise EvaluationError("validation needs two cases with patches of each class")
    folds = LeaveOneGroupOut()
    logits: Numbers = cross_val_predict(
        _model(), features, labels, groups=case_ids, cv=folds, method="decision_function"
    )
    return logits
