"""What makes a variant differ from the main run: its parameters and its split."""

from __future__ import annotations

import pandas as pd

from histopipe.errors import SplitError
from histopipe.params import Params, require_folds
from histopipe.paths import Workspace
from histopipe.splitting.membership import read_folds
from histopipe.splitting.stage import divide_anew, fold_membership, require_classes
from histopipe.splitting.summary import summarise
from histopipe.store import read_index


def variant_params(study: str, number: int, params: Params) -> Params:
    """The parameters of one variant.

    A seed replaces `seed` for all that the split and the training draw; the data stays, also where it was drawn with
    the main run's seed. A fold keeps the seed: it differs by its split alone.
    """
    if study == "seeds":
        return params.model_copy(update={"seed": number})
    return params.model_copy(update={"split": params.split.model_copy(update={"scheme": "kfold"})})


def variant_split(study: str, dataset: str, number: int, params: Params, workspace: Workspace) -> pd.DataFrame:
    """The split of one variant, the same for every architecture.

    Args:
        study: `folds` or `seeds`.
        dataset: the data set's name.
        number: of the fold that tests, or the seed.
        params: of the main run.
        workspace: of the main run.

    Raises:
        ParamsError: there is no such fold.
        SplitError: the cases can't be divided so.
    """
    index = read_index(workspace.store(dataset))
    if study == "seeds":
        return divide_anew(dataset, variant_params(study, number, params), index)
    require_folds(params, [number], f"{dataset} folds")
    path = workspace.folds(dataset)
    folds = read_folds(path)
    if set(folds) != set(range(params.split.folds)):
        highest = params.split.folds - 1
        raise SplitError(f"{path} holds other folds than 0 to {highest}: run `dvc repro split@{dataset}`")
    membership = fold_membership(folds, number, params.split.folds)
    require_classes(summarise(membership, index[index["case_id"].isin(folds.index)]), f"{dataset} fold {number}")
    return membership
