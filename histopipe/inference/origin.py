"""Check that a model was trained on the data that the checkout has under the data set's name."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from histopipe.core.errors import HistopipeError, PredictionError, StoreError
from histopipe.core.files import read_json, read_yaml
from histopipe.core.operating_point import OperatingPoint
from histopipe.core.workspace import Workspace
from histopipe.tracking.provenance import Provenance, Relation, data_here, other_classes, relate
from histopipe.tracking.served.packaging import DATA_ARTIFACT

if TYPE_CHECKING:
    from histopipe.tracking.entities import ModelVersion

_log = logging.getLogger(__name__)


def read_provenance(folder: Path, point: OperatingPoint) -> Provenance:
    """Read a served model's data from its folder; models of earlier versions only record data set and classes."""
    classes = (str(point.get("negative_class") or ""), str(point.get("positive_class") or ""))
    partial = Provenance(str(point.get("data_set") or ""), classes=classes)
    try:
        described = read_yaml(folder / "MLmodel")["flavors"]["python_function"]["artifacts"]
        recorded = Provenance.from_json(read_json(folder / described[DATA_ARTIFACT]["path"]))
    except (HistopipeError, OSError, KeyError, TypeError, ValueError, AttributeError):
        return partial
    return replace(recorded, dataset=partial.dataset, classes=classes)


def require_own_data(
    made_from: Provenance, title: str, version: ModelVersion | None, follows_champion: bool, workspace: Workspace
) -> Relation:
    """Check that a model is of the data that this checkout has under its data set's name.

    If either side records too little to decide, a warning is logged. Other data also only causes a warning if a certain
    model was requested by name; other classes are always refused.

    Args:
        made_from: the model's data.
        title: the model's name in messages.
        version: its registered version; None for other models.
        follows_champion: whether the champion was requested, whichever version that is, rather than this version.
        workspace: the checkout.

    Returns:
        The relation of the model's data to that of the checkout.

    Raises:
        PredictionError: the model has other classes, or was trained on other data and only the champion was requested.
    """
    dataset = made_from.dataset
    here = _here(dataset, workspace)
    relation = relate(made_from, here)
    if relation.verdict == "same":
        return relation
    if other_classes(made_from, here) or (follows_champion and relation.verdict == "other"):
        raise PredictionError(
            f"{title} is made from other data than {dataset} is here ({relation.reason}): "
            f"{_remedy(made_from, here, version, follows_champion)}"
        )
    if relation.verdict == "other":
        _warn_once(f"{title} is made from other data than {dataset} is here: {relation.reason}")
    else:
        _warn_once(f"{title} may be made from other data than {dataset} is here: {relation.reason}")
    return relation


@cache
def _warn_once(message: str) -> None:
    """Log a warning once per process: a worker of the service loads the same model for many jobs."""
    _log.warning("%s", message)


def _here(dataset: str, workspace: Workspace) -> Provenance:
    try:
        return data_here(dataset, workspace)
    except StoreError as problem:
        _log.warning("%s", problem)
        return Provenance(dataset)


def _remedy(made_from: Provenance, here: Provenance, version: ModelVersion | None, follows_champion: bool) -> str:
    """Describe what to do; only models of drawn slides are replaced without asking, and other classes never load."""
    if not follows_champion:
        return "name a model of these classes"
    replaced = f"`histopipe promote {here.dataset} --replace {version.version if version else 'VERSION'}`"
    own_name = "under a name of its own (tracking.registered_model in params.yaml)"
    if made_from.is_synthetic and here.kind and not here.is_synthetic:
        first = (
            f"train a model of this data in full (`quick: null` in params.yaml), which takes its place when it is "
            f"promoted, let one trained under the caps of `quick` take it ({replaced}), promote one {own_name}"
        )
    else:
        first = f"promote a model of this data {own_name} or in place of this one ({replaced})"
    if other_classes(made_from, here):
        return first
    named = f"models:/{version.name}/{version.version}" if version else "models:/NAME/VERSION"
    return f"{first}, or name that one all the same (--model {named})"
