"""The definition of variants: the parameters and the split in which they differ from the main run."""

from __future__ import annotations

import hashlib

import pandas as pd

from histopipe.core.errors import SplitError
from histopipe.core.params import Params, require_folds
from histopipe.core.variants import KINDS, Study, VariantValue
from histopipe.core.workspace import Workspace
from histopipe.data.splitting.membership import read_folds, read_membership
from histopipe.data.splitting.stage import divide_from_scratch, fold_membership, require_classes
from histopipe.data.splitting.summary import summarise
from histopipe.data.store import read_index

REMEDIES = {
    "folds": "each fold needs a case of each class: lower split.folds, or add cases of that class",
    "sizes": "raise the number, since its cases are drawn by seed alone, or add cases of that class",
}


def variant_params(study: Study, variant: VariantValue, params: Params) -> Params:
    """Return the parameters of one variant.

    A seed replaces `seed` in the split and the training; the data stays, also where it was drawn with the main run's
    seed. A fold keeps the seed: it differs by its split alone, and so do a scheme and a number of training cases.
    """
    if study == "seeds":
        return params.model_copy(update={"seed": variant})
    scheme = {"folds": "kfold", "schemes": variant}.get(study, params.split.scheme)
    return params.model_copy(update={"split": params.split.model_copy(update={"scheme": scheme})})


def variant_split(
    study: Study, dataset: str, variant: VariantValue, params: Params, workspace: Workspace
) -> pd.DataFrame:
    """Compute the split of one variant, the same for every recipe.

    Args:
        study: `folds`, `seeds`, `schemes` or `sizes`.
        dataset: name of the data set.
        variant: number of the test fold, seed, scheme, or number of training cases.
        params: parameters of the main run.
        workspace: workspace of the main run.

    Raises:
        ParamsError: there is no such fold.
        SplitError: the cases can't be divided that way.
    """
    index = read_index(workspace.store(dataset))
    if study in ("seeds", "schemes"):
        return divide_from_scratch(dataset, variant_params(study, variant, params), index)
    if study == "sizes":
        membership = keep_training_cases(read_membership(workspace.split(dataset)), int(variant), params.seed)
    else:
        membership = _fold(dataset, int(variant), params, workspace)
    rows = index[index["case_id"].isin(membership["case_id"])]
    require_classes(summarise(membership, rows), f"{dataset} {KINDS[study]} {variant}", REMEDIES[study])
    return membership


def _fold(dataset: str, number: int, params: Params, workspace: Workspace) -> pd.DataFrame:
    require_folds(params, [number], f"{dataset} folds")
    path = workspace.folds(dataset)
    folds = read_folds(path)
    if set(folds) != set(range(params.split.folds)):
        highest = params.split.folds - 1
        raise SplitError(f"{path} holds folds other than 0 to {highest}: run `dvc repro split@{dataset}`")
    return fold_membership(folds, number, params.split.folds)


def keep_training_cases(membership: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    """Return the main run's split with only `count` of its training cases; validation and test stay.

    The order of the cases depends on the seed and their ids alone, so the cases of a smaller number are among those of
    a larger one, also when cases are added.

    Raises:
        SplitError: there are fewer training cases, or patches rather than cases were divided.
    """
    if "file" in membership:
        raise SplitError(
            "a variant of size counts cases, but split.scheme random divides patches: choose another scheme"
        )
    training = membership.loc[membership["split"] == "train", "case_id"]
    if count > len(training):
        raise SplitError(f"size-{count} asks for {count} training cases, but the split has {len(training)}: lower it")
    kept = set(sorted(training, key=lambda case: hashlib.sha256(f"{seed} {case}".encode()).digest())[:count])
    return membership[(membership["split"] != "train") | membership["case_id"].isin(kept)].reset_index(drop=True)
