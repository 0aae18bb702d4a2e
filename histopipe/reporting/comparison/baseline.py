"""The comparison's reference to beat: a logistic regression on a patch's colours, without any network.

Much of what tells classes apart is how dark, how blue and how uneven a patch is. A network that reaches no more than
six numbers do hasn't been shown to see tissue: the row tells how much a reader owes to the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histopipe.core.cases.labels import holds_both_classes
from histopipe.core.colours import COLOURS
from histopipe.core.errors import EvaluationError
from histopipe.core.params import Params
from histopipe.core.workspace import Workspace
from histopipe.data.sampling import cap_rows
from histopipe.data.store import read_index
from histopipe.evaluation.cases import patch_columns
from histopipe.evaluation.metrics import Numbers
from histopipe.evaluation.record import EvaluationMarks
from histopipe.reporting.comparison.combination import evaluate_row
from histopipe.reporting.comparison.evaluations import EvaluatedModel

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

BASELINE = "baseline"


def with_baseline(
    dataset: str, evaluated: Sequence[EvaluatedModel], params: Params, workspace: Workspace
) -> tuple[list[EvaluatedModel], str | None]:
    """Return the row that colours alone reach beside the evaluated networks, or none and why there is none."""
    from histopipe.data.splitting.membership import is_leaky, read_split, split_of_patches

    index, split = read_index(workspace.store(dataset)), read_split(workspace.split(dataset))
    rows = [each.row for each in evaluated]
    quick = next((row["quick"] for row in rows if row.get("quick")), None)
    marks: EvaluationMarks = {
        "positive_class": rows[0]["positive_class"],
        "quick": quick,
        "leaky": is_leaky(split.table),
    }
    splits = split_of_patches(split, index)
    try:
        return [colour_baseline(index, splits, evaluated[0].predictions, marks, params)], None
    except EvaluationError as problem:
        return [], f"{BASELINE}: not made, {problem}"


def colour_baseline(
    index: pd.DataFrame, splits: pd.Series, graded: pd.DataFrame, marks: EvaluationMarks, params: Params
) -> EvaluatedModel:
    """Fit a logistic regression to the colours of the training patches and grade it as the networks are graded.

    Nothing about it is chosen: features and penalty are fixed. It learns from the training patches that the networks
    get, also under `quick.max_patches`; calibration and threshold come from validation.

    Args:
        index: the store's, with its colour statistics.
        splits: of the same rows.
        graded: columns as `patch_columns` tells them of the validation and test patches.
        marks: `positive_class`, `quick` (the caps that the networks beside it were trained under) and `leaky` (whether
            the split shares cases; what weights have seen is no matter of this row).
        params: caps, rule of the threshold, resamples and seed.

    Raises:
        EvaluationError: the index has no colour statistics, or the training patches are of one class.
    """
    if not set(COLOURS) <= set(index):
        raise EvaluationError("the store has no colour statistics (`dvc repro ingest` makes them)")
    limit = params.quick.max_patches if params.quick else None
    train = cap_rows(np.flatnonzero((splits == "train").to_numpy()), limit, params.seed)
    labels = index["label"].to_numpy()[train]
    if not holds_both_classes(labels):
        raise EvaluationError("the training patches are of one class")
    colours = index[COLOURS].to_numpy(np.float64)
    rows = pd.Series(np.arange(len(index)), index["file"]).loc[graded["file"]].to_numpy()
    logits: Numbers = _model().fit(colours[train], labels).decision_function(colours[rows])
    table = graded[patch_columns(graded)].assign(logit=logits)
    evaluated = evaluate_row(BASELINE, table, [{**marks, "architecture": BASELINE}], params)
    return EvaluatedModel({**evaluated.row, "members": []}, evaluated.predictions)


def _model() -> Pipeline:
    """Mean and spread of red, green and blue, their squares and products, on one scale; scikit-learn's own penalty.

    Squares and products are in for what colours alone can tell: on the training cases of the real samples, by case, the
    ROC AUC rose by .04 with them, on IDC as on malaria.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    terms = PolynomialFeatures(degree=2, include_bias=False)
    # Newton's steps need a 27 x 27 matrix and no start value: quick, and the same on every run.
    return make_pipeline(StandardScaler(), terms, StandardScaler(), LogisticRegression(solver="newton-cholesky"))
