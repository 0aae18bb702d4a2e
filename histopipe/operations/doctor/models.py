"""Whether the registered models that aliases stand at can be loaded, compared with, and are of this checkout's data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from histopipe.core.errors import HistopipeError
from histopipe.core.params import Params
from histopipe.core.workspace import Workspace
from histopipe.operations.doctor.finding import Finding
from histopipe.tracking.runs import run_exists
from histopipe.tracking.stores import is_database_missing

if TYPE_CHECKING:
    from histopipe.tracking.entities import ModelVersion
    from histopipe.tracking.registry import Registry


def models(params: Params, workspace: Workspace) -> Iterator[Finding]:
    """Findings on the champion of every data set of `params.yaml`, and on its challenger and the champion before."""
    for dataset in params.datasets:
        try:
            yield from _models_of(dataset, workspace)
        except Exception as problem:  # the line on MLflow says it in full
            said = f"can't be looked at ({type(problem).__name__})"
            yield Finding(f"champion of {dataset}", said, "warning", "see MLflow above")


def _models_of(dataset: str, workspace: Workspace) -> Iterator[Finding]:
    from histopipe.tracking.registry import CHALLENGER, CHAMPION, PREVIOUS, open_registry

    what = f"champion of {dataset}"
    if is_database_missing(workspace):
        yield Finding(what, "none yet")
        return
    with open_registry(dataset, workspace) as registry:
        champion = registry.version_at(CHAMPION)
        if champion is None:
            yield Finding(what, f"none yet in {registry.name}")
        else:
            yield _champion(champion, what, dataset, registry, workspace)
        before = registry.version(champion.tags[PREVIOUS]) if champion and PREVIOUS in champion.tags else None
        for name, version in (
            (f"challenger of {dataset}", registry.version_at(CHALLENGER)),
            (f"before {what}", before),
        ):
            if version is not None:
                yield _other(version, name, registry)


def _champion(version: ModelVersion, what: str, dataset: str, registry: Registry, workspace: Workspace) -> Finding:
    """Its files first, then what promotions need of it, its run, and its data."""
    from histopipe.networks.weights.intact import find_version_fault

    title = _title(version)
    if fault := find_version_fault(version, registry.client, load=True):
        remedy = f"`histopipe promote {dataset}` where it was trained registers it again; or restore them from a backup"
        return Finding(what, f"{title} can't be loaded: {fault}", "error", remedy)
    if lacking := _lacking(version, dataset, registry):
        return Finding(what, f"{title}: {lacking[0]}", "warning", lacking[1])
    return _of_data(version, what, dataset, registry, workspace)


def _lacking(version: ModelVersion, dataset: str, registry: Registry) -> tuple[str, str] | None:
    """What a version that can be loaded lacks all the same, and what helps."""
    from histopipe.core.errors import PromotionError
    from histopipe.promotion.champion import read_champion

    try:
        read_champion(version, registry.client)
    except PromotionError:
        said = "what promotions compare with is gone from its run"
        return said, f"`histopipe promote {dataset}` where it was trained logs it again"
    if not run_exists(str(version.run_id)):
        return "its run is deleted, and `mlflow gc` would take its files", (
            f"`mlflow runs restore --run-id {version.run_id}`"
        )
    return None


def _of_data(version: ModelVersion, what: str, dataset: str, registry: Registry, workspace: Workspace) -> Finding:
    from histopipe.networks.weights.registered import data_of_version
    from histopipe.tracking.provenance import data_here, relate

    try:
        relation = relate(data_of_version(version, registry.client), data_here(dataset, workspace))
    except HistopipeError:  # the line on the store says it
        return Finding(what, f"{_title(version)} loads")
    if relation.verdict == "other":
        remedy = "train and promote under a name of your own: tracking.registered_model in params.yaml"
        return Finding(what, f"{_title(version)} is of other data than here: {relation.reason}", "warning", remedy)
    return Finding(what, f"{_title(version)} loads; its data: {relation}")


def _other(version: ModelVersion, what: str, registry: Registry) -> Finding:
    from histopipe.networks.weights.intact import find_version_fault

    if fault := find_version_fault(version, registry.client, load=True):
        said = f"{_title(version)} can't be loaded: {fault}"
        return Finding(what, said, "warning", "restore them from a backup, or leave it: the champion doesn't need it")
    return Finding(what, f"{_title(version)} loads")


def _title(version: ModelVersion) -> str:
    return f"version {version.version} of {version.name} ({version.tags.get('architecture', 'of unknown make')})"
