"""The split_variant stage: which cases a variant trains on, validates with and tests."""

from __future__ import annotations

import pandas as pd

from histopipe.core.files import write_json, write_text
from histopipe.core.params import Params
from histopipe.core.stages.inputs import require_unchanged_inputs
from histopipe.core.variants import parse_variant
from histopipe.core.workspace import Workspace
from histopipe.data.splitting.stage import as_csv
from histopipe.experiments.studies.definition import variant_params, variant_split
from histopipe.experiments.studies.workspace import VariantSettings, VariantWorkspace


def split_variant(dataset: str, architecture: str, name: str, params: Params, workspace: Workspace) -> pd.DataFrame:
    """Divide the cases as one variant has them.

    Writes `split.csv`, and `variant.json` with what else makes the variant differ from the main run.

    Args:
        dataset: the data set's name.
        architecture: the recipe's name.
        name: the variant's, such as `fold-0`.
        params: of the main run.
        workspace: of the main run.

    Returns:
        The content of `split.csv`.

    Raises:
        HistopipeError: there is no such fold, or the cases can't be divided so.
    """
    study, variant = parse_variant(name)
    own = VariantWorkspace(workspace.root, study, architecture, variant)
    membership = variant_split(study, dataset, variant, params, workspace)
    require_unchanged_inputs()
    write_text(own.split(dataset), as_csv(membership))
    write_json(own.settings(dataset), settings_of(variant_params(study, variant, params)))
    return membership


def settings_of(params: Params) -> VariantSettings:
    """What of a variant's parameters its training and its evaluation must know, as `variant.json` has it."""
    return {"seed": params.seed, "split": params.split.model_dump(include={"scheme", "unlisted"})}
