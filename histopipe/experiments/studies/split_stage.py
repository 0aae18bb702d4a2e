"""The split_variant stage: assign cases to a variant's training, validation and test."""

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
    """Divide the cases for one variant.

    Writes `split.csv`, and `variant.json` with the settings in which the variant differs from the main run.

    Args:
        dataset: name of the data set.
        architecture: name of the recipe.
        name: name of the variant, such as `fold-0`.
        params: parameters of the main run.
        workspace: workspace of the main run.

    Returns:
        The content of `split.csv`.

    Raises:
        HistopipeError: there is no such fold, or the cases can't be divided that way.
    """
    study, variant = parse_variant(name)
    own = VariantWorkspace(workspace.root, study, architecture, variant)
    membership = variant_split(study, dataset, variant, params, workspace)
    require_unchanged_inputs()
    write_text(own.split(dataset), as_csv(membership))
    write_json(own.settings(dataset), settings_of(variant_params(study, variant, params)))
    return membership


def settings_of(params: Params) -> VariantSettings:
    """Return the parameters of a variant that its training and its evaluation need, the content of `variant.json`."""
    return {"seed": params.seed, "split": params.split.model_dump(include={"scheme", "unlisted"})}
