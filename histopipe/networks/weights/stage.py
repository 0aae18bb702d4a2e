"""The weights stage: bring what a recipe's network starts from into a place that DVC tracks."""

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
from histopipe.networks.weights.behind import Behind, cases_beside
from histopipe.networks.weights.record import IMAGENET, RANDOM, Weights, code_digest

LOG = logging.getLogger(__name__)
REGISTERED = "models:/"
CHOICES = "imagenet, random, models:/NAME@ALIAS, or a file's path from the checkout"


def fetch_weights(name: str, params: Params, workspace: Workspace, anew: bool = False) -> Weights:
    """Bring the weights of the recipe called `name` into `workspace.weights(name)`, checked.

    Published weights are fetched once, and an alias is looked up once: what lies there already and answers the same
    question stays, so that what a recipe starts from doesn't change with its learning rate. A path and a version are
    looked up each time.

    Args:
        name: the recipe's.
        params: hold the recipe.
        workspace: where to read and write.
        anew: look up what lies there too.

    Returns:
        The record, as written to `weights.json`.

    Raises:
        UnreachableError: published weights can't be fetched now.
        WeightsError: there are none for this network; the file is missing, damaged or of another network; there is no
            such registered model.
    """
    recipe = params.recipe(name)
    architecture = recipe.architecture or name
    wanted = Weights(params.weights(name), architecture, code_digest(architecture))
    folder = workspace.weights(name)
    with replaced_folder(folder, stage_check("weights")) as beside:
        found = wanted if wanted.asked == RANDOM else _bring(wanted, name, params, workspace, beside, anew)
        found.write(beside)
        require_unchanged_inputs()
    return found


def _bring(wanted: Weights, name: str, params: Params, workspace: Workspace, target: Path, anew: bool) -> Weights:
    """Put the file into `target` and say what it is."""
    from histopipe.networks.architectures import backbone_of, build

    backbone = backbone_of(wanted.architecture, params.recipe(name).model)
    wanted, key = replace(wanted, backbone=backbone), f"recipes.{name}.weights"
    kept = None if anew else _keep(wanted, name, workspace, target)
    if kept:
        return kept
    seen: Behind | None = None
    if wanted.asked == IMAGENET:
        from histopipe.networks.weights.imagenet import bring_imagenet

        file, origin = bring_imagenet(backbone, key, target)
    elif wanted.asked.startswith(REGISTERED):
        from histopipe.networks.weights.registered import bring_registered

        file, origin, seen = bring_registered(wanted.asked, key, workspace, target)
    else:
        file, origin = _copy(wanted.asked, key, workspace, target), {"path": wanted.asked}
        seen = cases_beside(_source(wanted.asked, workspace))
        if seen is None:
            LOG.warning("%s: %s; what starts from %s is tagged leaky: unknown", key, WHY_UNKNOWN, wanted.asked)
    from histopipe.networks.weights.loading import check_file

    # pooling behind a backbone takes any image size, so that such a network can be tried here
    network = build(wanted.architecture, **params.recipe(name).model) if backbone else None
    check_file(file, network, backbone, f"{key}: {wanted.asked}")
    found = replace(wanted, file=file.name, sha256=file_digest(file), origin=origin)
    return _with_cases(found, seen)


def _with_cases(found: Weights, seen: Behind | None) -> Weights:
    """The record with what is known of the trainings behind the weights."""
    if seen is None:
        return found
    return replace(found, seen=seen.cases, unknown=seen.unknown, samples=list(seen.samples) or None)


def _keep(wanted: Weights, name: str, workspace: Workspace, target: Path) -> Weights | None:
    """What was brought for the same question before, copied to `target`; None where it is another or damaged."""
    folder = workspace.weights(name)
    try:
        earlier = Weights.read(folder)
    except HistopipeError:
        return None
    same = (earlier.asked, earlier.backbone) == (wanted.asked, wanted.backbone)
    if not (same and _is_looked_up_once(wanted.asked)) or not earlier.file or not (folder / earlier.file).is_file():
        return None
    shutil.copyfile(folder / earlier.file, target / earlier.file)
    if file_digest(target / earlier.file) != earlier.sha256:
        return None
    return _completed(replace(earlier, code=wanted.code), workspace)


def _completed(kept: Weights, workspace: Workspace) -> Weights:
    """The record of weights that stay, with what an earlier version didn't write down of the trainings behind them.

    The version that an alias stood at stays; only its training's record is read again. Where that can't be had, it
    stays unknown what they have seen, and is asked for the next time.
    """
    if kept.asked == IMAGENET or kept.unknown is not None:
        return kept
    from histopipe.networks.weights.registered import behind_version

    origin = kept.origin or {}
    return _with_cases(kept, behind_version(origin.get("model", ""), origin.get("version", ""), workspace))


def _is_looked_up_once(asked: str) -> bool:
    """Published weights and an alias, which may point elsewhere by now."""
    return asked == IMAGENET or (asked.startswith(REGISTERED) and "@" in asked)


def _source(asked: str, workspace: Workspace) -> Path:
    return workspace.home / Path(asked).expanduser()


def _copy(asked: str, key: str, workspace: Workspace, target: Path) -> Path:
    source = _source(asked, workspace)
    if not source.is_file():
        hint = did_you_mean(asked, (IMAGENET, RANDOM), f"give {CHOICES}")
        raise WeightsError(f"{key}: there is no file {source}; {hint}")
    return Path(shutil.copyfile(source, target / source.name))
