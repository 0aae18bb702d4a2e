"""The weights stage: fetch the weights that a recipe's network starts from into a folder that DVC tracks."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

from histopipe.core.errors import HistopipeError, WeightsError, did_you_mean
from histopipe.core.files import file_digest, replaced_folder
from histopipe.core.params import Params
from histopipe.core.stages.folders import stage_check
from histopipe.core.stages.inputs import require_unchanged_inputs
from histopipe.core.workspace import Workspace
from histopipe.data.leakage import WHY_UNKNOWN
from histopipe.networks.weights.record import IMAGENET, RANDOM, Weights, code_digest
from histopipe.networks.weights.seen_data import SeenData, seen_data_of_file

LOG = logging.getLogger(__name__)
REGISTERED = "models:/"
CHOICES = "imagenet, random, models:/NAME@ALIAS, or a file's path from the checkout"


def fetch_weights(name: str, params: Params, workspace: Workspace, refresh: bool = False) -> Weights:
    """Fetch the weights of the recipe called `name` into `workspace.weights(name)`, and check them.

    Published weights are fetched once, and an alias is looked up once: weights fetched earlier for the same choice
    stay, so that a recipe's starting point doesn't change with its learning rate. A path and a version are looked up
    each time.

    Args:
        name: name of the recipe.
        params: parameters with the recipe.
        workspace: workspace to read from and write to.
        refresh: whether to look up weights that were fetched earlier, too.

    Returns:
        The record, as written to `weights.json`.

    Raises:
        UnreachableError: published weights can't be fetched now.
        WeightsError: there are no weights for this network; the file is missing, damaged or of another network; the
            registry has no such model.
    """
    recipe = params.recipe(name)
    architecture = recipe.architecture or name
    weights = Weights(params.weights(name), architecture, code_digest(architecture))
    folder = workspace.weights(name)
    with replaced_folder(folder, stage_check("weights")) as target:
        fetched = weights if weights.choice == RANDOM else _fetch(weights, name, params, workspace, target, refresh)
        fetched.write(target)
        require_unchanged_inputs()
    return fetched


def _fetch(weights: Weights, name: str, params: Params, workspace: Workspace, target: Path, refresh: bool) -> Weights:
    """Put the file into `target`, and return its record."""
    from histopipe.networks.architectures import backbone_of, build

    backbone = backbone_of(weights.architecture, params.recipe(name).model)
    weights, key = replace(weights, backbone=backbone), f"recipes.{name}.weights"
    kept = None if refresh else _reuse(weights, name, workspace, target)
    if kept:
        return kept
    seen: SeenData | None = None
    if weights.choice == IMAGENET:
        from histopipe.networks.weights.imagenet import bring_imagenet

        file, origin = bring_imagenet(backbone, key, target)
    elif weights.choice.startswith(REGISTERED):
        from histopipe.networks.weights.registered import bring_registered

        file, origin, seen = bring_registered(weights.choice, key, workspace, target)
    else:
        file, origin = _copy(weights.choice, key, workspace, target), {"path": weights.choice}
        seen = seen_data_of_file(_source(weights.choice, workspace))
        if seen is None:
            LOG.warning("%s: %s; models that start from %s are tagged leaky: unknown", key, WHY_UNKNOWN, weights.choice)
    from histopipe.networks.weights.loading import check_file

    # pooling behind a backbone takes any image size, so that such a network can be tried here
    network = build(weights.architecture, **params.recipe(name).model) if backbone else None
    check_file(file, network, backbone, f"{key}: {weights.choice}")
    fetched = replace(weights, file=file.name, sha256=file_digest(file), origin=origin)
    return _with_cases(fetched, seen)


def _with_cases(weights: Weights, seen: SeenData | None) -> Weights:
    """Add the data that the trainings behind the weights have seen to a record."""
    if seen is None:
        return weights
    return replace(weights, seen=seen.cases, unknown=seen.unknown, samples=list(seen.samples) or None)


def _reuse(weights: Weights, name: str, workspace: Workspace, target: Path) -> Weights | None:
    """Copy weights fetched earlier for the same choice into `target`; None where they differ or are damaged."""
    folder = workspace.weights(name)
    try:
        earlier = Weights.read(folder)
    except HistopipeError:
        return None
    same = (earlier.choice, earlier.backbone) == (weights.choice, weights.backbone)
    if not (same and _is_looked_up_once(weights.choice)) or not earlier.file or not (folder / earlier.file).is_file():
        return None
    shutil.copyfile(folder / earlier.file, target / earlier.file)
    if file_digest(target / earlier.file) != earlier.sha256:
        return None
    return _complete(replace(earlier, code=weights.code), workspace)


def _complete(weights: Weights, workspace: Workspace) -> Weights:
    """Add to a reused record what earlier versions didn't record about the trainings behind the weights.

    The version that an alias pointed to stays; only its training's record is read again. Where that can't be read, the
    cases seen stay unknown, and are looked up the next time.
    """
    if weights.choice == IMAGENET or weights.unknown is not None:
        return weights
    from histopipe.networks.weights.registered import seen_data_of_version

    origin = weights.origin or {}
    return _with_cases(weights, seen_data_of_version(origin.get("model", ""), origin.get("version", ""), workspace))


def _is_looked_up_once(choice: str) -> bool:
    """Return whether weights are published ones or an alias, which may point elsewhere by now."""
    return choice == IMAGENET or (choice.startswith(REGISTERED) and "@" in choice)


def _source(choice: str, workspace: Workspace) -> Path:
    return workspace.checkout / Path(choice).expanduser()


def _copy(choice: str, key: str, workspace: Workspace, target: Path) -> Path:
    source = _source(choice, workspace)
    if not source.is_file():
        hint = did_you_mean(choice, (IMAGENET, RANDOM), f"give {CHOICES}")
        raise WeightsError(f"{key}: there is no file {source}; {hint}")
    return Path(shutil.copyfile(source, target / source.name))
