"""Check that registered models with an alias can be loaded and compared with, and are of this checkout's data."""

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


def check_models(params: Params, workspace: Workspace) -> Iterator[Finding]:
    """Check each data set's champion, its challenger and the previous champion."""
    for dataset in params.datasets:
        try:
            yield from _check_dataset(dataset, workspace)
        except Exception as problem:  # the finding on MLflow has the full message
            observation = f"can't be checked ({type(problem).__name__})"
            yield Finding(f"champion of {dataset}", observation, "warning", "see MLflow above")


def _check_dataset(dataset: str, workspace: Workspace) -> Iterator[Finding]:
    from histopipe.tracking.registry import CHALLENGER, CHAMPION, PREVIOUS, open_registry

    subject = f"champion of {dataset}"
    if is_database_missing(workspace):
        yield Finding(subject, "none yet")
        return
    with open_registry(dataset, workspace) as registry:
        champion = registry.version_at(CHAMPION)
        if champion is None:
            yield Finding(subject, f"none yet in {registry.name}")
        else:
            yield _check_champion(champion, subject, dataset, registry, workspace)
        before = registry.version(champion.tags[PREVIOUS]) if champion and PREVIOUS in champion.tags else None
        for name, version in (
            (f"challenger of {dataset}", registry.version_at(CHALLENGER)),
            (f"before {subject}", before),
        ):
            if version is not None:
                yield _check_other(version, name, registry)


def _check_champion(
    version: ModelVersion, subject: str, dataset: str, registry: Registry, workspace: Workspace
) -> Finding:
    """Check a champion's files, then what promotions need of it, its run, and its data."""
    from histopipe.networks.weights.intact import find_version_fault

    title = _title(version)
    if fault := find_version_fault(version, registry.client, load=True):
        remedy = f"`histopipe promote {dataset}` where it was trained registers it again; or restore them from a backup"
        return Finding(subject, f"{title} can't be loaded: {fault}", "error", remedy)
    if missing := _find_missing(version, dataset, registry):
        return Finding(subject, f"{title}: {missing[0]}", "warning", missing[1])
    return _check_data(version, subject, dataset, registry, workspace)


def _find_missing(version: ModelVersion, dataset: str, registry: Registry) -> tuple[str, str] | None:
    """Describe what a version lacks though it can be loaded, and the remedy; None if nothing is missing."""
    from histopipe.core.errors import PromotionError
    from histopipe.promotion.champion import read_champion

    try:
        read_champion(version, registry.client)
    except PromotionError:
        observation = "what promotions need for a comparison is missing from its run"
        return observation, f"`histopipe promote {dataset}` where it was trained logs it again"
    if not run_exists(str(version.run_id)):
        return "its run is deleted, and `mlflow gc` would take its files", (
            f"`mlflow runs restore --run-id {version.run_id}`"
        )
    return None


def _check_data(version: ModelVersion, subject: str, dataset: str, registry: Registry, workspace: Workspace) -> Finding:
    from histopipe.networks.weights.registered import data_of_version
    from histopipe.tracking.provenance import data_here, relate

    try:
        relation = relate(data_of_version(version, registry.client), data_here(dataset, workspace))
    except HistopipeError:  # the finding on the store has the message
        return Finding(subject, f"{_title(version)} loads")
    if relation.verdict == "other":
        remedy = "train and promote under your own name: tracking.registered_model in params.yaml"
        return Finding(
            subject,
            f"{_title(version)} is made from other data than this checkout's: {relation.reason}",
            "warning",
            remedy,
        )
    return Finding(subject, f"{_title(version)} loads; its data: {relation}")


def _check_other(version: ModelVersion, subject: str, registry: Registry) -> Finding:
    from histopipe.networks.weights.intact import find_version_fault

    if fault := find_version_fault(version, registry.client, load=True):
        observation = f"{_title(version)} can't be loaded: {fault}"
        return Finding(
            subject, observation, "warning", "restore them from a backup, or leave it: the champion doesn't need it"
        )
    return Finding(subject, f"{_title(version)} loads")


def _title(version: ModelVersion) -> str:
    architecture = version.tags.get("architecture", "of an unknown architecture")
    return f"version {version.version} of {version.name} ({architecture})"
