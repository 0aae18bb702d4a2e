"""Registered versions: made from a candidate, and made again where a champion's files are gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from histopipe.core.errors import PromotionError
from histopipe.core.files import file_digest
from histopipe.core.params import Params
from histopipe.core.stages.inputs import require_unchanged_inputs
from histopipe.core.workspace import Workspace
from histopipe.data.store import INDEX_FILE
from histopipe.evaluation.record import SERVED_MODEL_TAG
from histopipe.networks.weights.intact import find_version_fault
from histopipe.networks.weights.registered import KEPT_TAG
from histopipe.promotion.candidate import Candidate, find_source_model
from histopipe.promotion.card import LINEAGE, read_card_content, render_model_card, shorten_card
from histopipe.promotion.champion import log_for_later_promotions, read_champion
from histopipe.promotion.gates import Gate, reasons
from histopipe.promotion.served import require_intact, served_run
from histopipe.tracking.registry import IDENTITY, PREVIOUS, TRAINING, Registry
from histopipe.tracking.runs import log_if_changed, run_exists

if TYPE_CHECKING:
    from histopipe.tracking.entities import MlflowClient, ModelVersion, Run

PROMOTED, REFUSED = "promoted", "refused"
GATE, LOOKS = "gate.", "looks."  # prefixes of the tags that a verdict sets besides `verdict` and `reasons`
REPORT_FILES = ("index.html", "comparison.png", "pairs.png")  # of the compare stage


def register(
    candidate: Candidate, run: Run, verdict: Mapping[str, str], registry: Registry, workspace: Workspace
) -> ModelVersion:
    """Register a candidate's version with its card and tags, and keep in its run what later promotions need.

    An earlier verdict on the same version is removed.

    Args:
        candidate: the model.
        run: the run that holds its served model.
        verdict: its tags, from `verdict_tags`.
        registry: the data set's registry.
        workspace: the checkout with its files.
    """
    run_id, client = run.info.run_id, registry.client
    card = render_model_card(read_card_content(candidate, run, verdict, workspace))
    kept = log_for_later_promotions(candidate, card, client, run_id)
    log_report(candidate.dataset, client, run_id, workspace)
    tags = {**_tags(candidate, run, workspace), **verdict, KEPT_TAG: kept}
    description = shorten_card(card, kept)
    model_id = run.data.tags[SERVED_MODEL_TAG]

    def is_usable(version: ModelVersion) -> bool:
        return str(version.source) == f"models:/{model_id}" or find_version_fault(version, client) is None

    return registry.register(model_id, run_id, tags, description, is_usable, replaced=(GATE, LOOKS))


def log_report(dataset: str, client: MlflowClient, run_id: str, workspace: Workspace) -> None:
    """Log the report and its two figures of the ranking into the run that holds the model."""
    for name in REPORT_FILES:
        path = workspace.report(dataset) / name
        if path.exists():
            log_if_changed(client, run_id, path, "report")


def _tags(candidate: Candidate, run: Run, workspace: Workspace) -> dict[str, str]:
    record, point, data = candidate.record, candidate.point, candidate.made_from
    return {
        IDENTITY: candidate.identity,
        TRAINING: candidate.training,
        "run_id": run.info.run_id,
        "architecture": candidate.architecture,
        "threshold": str(point["threshold"]),
        "rule": str(point["rule"]),
        "positive_class": str(point["positive_class"]),
        "data_digest": file_digest(workspace.store(candidate.dataset) / INDEX_FILE),
        "split_digest": record["split_digest"],
        "recipe_digest": record["recipe_digest"],
        "quick": str(bool(record.get("quick"))).lower(),
        "leaky": str(candidate.leaky).lower(),
        "unlisted_train": str(bool(record.get("unlisted_train"))).lower(),
        "data_set": candidate.dataset,
        "data_source": data.title,
        "classes": ", ".join(data.classes),
        **{name: run.data.tags[name] for name in LINEAGE if name in run.data.tags},
    }


def verdict_tags(gates: Sequence[Gate]) -> dict[str, str]:
    """Return a verdict's tags, and each gate's as `gate.NAME` with `.measured`, `.limit`, `.bound` and `.reason`."""
    failed = reasons(gates)
    tags = {"verdict": REFUSED if failed else PROMOTED, "reasons": "; ".join(failed) or "none"}
    for gate in gates:
        key = f"{GATE}{gate.name}"
        tags[key] = "passed" if gate.passed else "failed"
        tags[f"{key}.measured"] = "undefined" if gate.measured is None else str(gate.measured)
        tags[f"{key}.limit"] = str(gate.limit)
        if gate.bound is not None:
            tags[f"{key}.bound"] = str(gate.bound)
        if not isinstance(gate.measured, float | int) and gate.interval:
            tags[f"{key}.reason"] = gate.interval
    return tags


def restore_champion(
    champion: ModelVersion | None, dataset: str, registry: Registry, params: Params, workspace: Workspace
) -> tuple[ModelVersion | None, str]:
    """Check that the champion can be loaded and compared with, and log again what is missing from this checkout.

    Returns:
        The champion from now on, which is another version if the files of the earlier one are gone; and a note about it
        for users, empty if nothing was missing.
    """
    if champion is None:
        return None, ""
    fault = find_version_fault(champion, registry.client)
    if fault is None and _is_kept(champion, registry):
        return champion, ""
    twin = find_source_model(dataset, champion.tags.get(IDENTITY), params, workspace)
    title = f"version {champion.version}"
    if twin is None:
        remedy = "restore them from a backup, or run `histopipe promote` where it was trained"
        return champion, f"the champion, {title}, can't be served: {fault}; {remedy}" if fault else ""
    if fault is None and run_exists(str(champion.run_id)):
        _keep_again(champion, twin, registry, workspace)
        return champion, f"what later promotions need from {title} was missing and has been logged again"
    version = _register_again(champion, twin, registry, workspace)
    return version, f"it is {title} registered again from this checkout, since {fault or 'its run was deleted'}"


def _is_kept(champion: ModelVersion, registry: Registry) -> bool:
    try:
        read_champion(champion, registry.client)
    except PromotionError:
        return False
    return True


def _keep_again(champion: ModelVersion, twin: Candidate, registry: Registry, workspace: Workspace) -> None:
    run = registry.client.get_run(str(champion.run_id))
    card = render_model_card(read_card_content(twin, run, champion.tags, workspace))
    kept = log_for_later_promotions(twin, card, registry.client, run.info.run_id)
    registry.tag(champion, {KEPT_TAG: kept})


def _register_again(champion: ModelVersion, twin: Candidate, registry: Registry, workspace: Workspace) -> ModelVersion:
    """Register the champion again under its earlier verdict; if this is killed, the same command resumes it."""
    run = served_run(twin, registry.client, workspace, repair=True)
    kept = [key for key in champion.tags if key.startswith((GATE, LOOKS)) or key in _KEPT_TAGS]
    verdict = {key: champion.tags[key] for key in kept}
    require_unchanged_inputs()
    version = register(twin, run, verdict, registry, workspace)
    require_intact(version, registry.client)
    require_unchanged_inputs()
    registry.set_champion(version, str(champion.version))
    return version


_KEPT_TAGS = ("verdict", "reasons", PREVIOUS)
