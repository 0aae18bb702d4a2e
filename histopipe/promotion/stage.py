"""Promotion and rollback: the champion's alias moves last, so that a kill at any moment leaves the old champion.

Everything before that move is tags and artifacts, which the same command writes again; a version is made once per
training, calibration and threshold. Processes of one checkout take turns under a lock. Between machines that share a
server the alias is one row, so there is always one champion; who finds it moved meanwhile stops and may try again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from histopipe.errors import PromotionError
from histopipe.evaluation.mlflow_run import SERVED_MODEL_TAG
from histopipe.files import file_digest
from histopipe.params import Params
from histopipe.paths import Workspace
from histopipe.promotion.candidate import Candidate, read_candidate
from histopipe.promotion.card import LINEAGE, description, model_card, read_facts
from histopipe.promotion.champion import champion_probabilities, keep, read_champion
from histopipe.promotion.gates import Gate, judge, leak_gate, reasons, rolled_back_gate, unseen
from histopipe.promotion.registry import (
    CHAMPION,
    IDENTITY,
    PREVIOUS,
    ROLLED_BACK,
    TRAINING,
    Registry,
    registry_turn,
)
from histopipe.promotion.served import require_whole, served_run
from histopipe.stage_inputs import require_unchanged_inputs
from histopipe.store import INDEX_FILE
from histopipe.tracking import log_if_changed, run_exists
from histopipe.weights.registered import KEPT_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

PROMOTED, REFUSED, TAKEN_BACK = "promoted", "refused", "rolled back"
REPORT_FILES = ("index.html", "comparison.png", "pairs.png")  # of the compare stage


@dataclass(frozen=True)
class Verdict:
    """What a promotion came to.

    Attributes:
        model: the registered model's name.
        version: number of the candidate's version.
        architecture: the candidate.
        changed: whether it was judged; a candidate that is champion already isn't.
        gates: what it was judged by.
    """

    model: str
    version: str
    architecture: str
    changed: bool
    gates: Sequence[Gate]

    @property
    def promoted(self) -> bool:
        """Whether it is champion now."""
        return not reasons(self.gates)

    def __str__(self) -> str:
        title = f"{self.model} version {self.version} ({self.architecture})"
        if not self.changed:
            return f"{title} is champion already"
        lines = [f"{title} {'is champion' if self.promoted else 'is refused and becomes challenger'}"]
        return "\n".join(lines + [f"  {'+' if gate.passed else '-'} {gate.reason}" for gate in self.gates])


def held_back(dataset: str, workspace: Workspace) -> str | None:
    """Why the pipeline's own `promote` does nothing here: one line inside of one of DVC's experiments, else None.

    An experiment is for choosing by validation: it mustn't move the checkout's champion, nor look at the gates on test.
    """
    if not (os.environ.get("DVC_EXP_NAME") or workspace.home != workspace.root):
        return None
    return f"experiments don't promote: keep this one with `dvc exp apply`, then run `histopipe promote {dataset}`"


def promote(dataset: str, params: Params, workspace: Workspace, again: bool = False) -> Verdict:
    """Register the best model by validation, and make it champion if every gate holds; else it becomes challenger.

    Args:
        dataset: the data set's name.
        params: hold the limits.
        workspace: where evaluations and the tracking store are.
        again: also if the model was rolled back before.

    Raises:
        PromotionError: no model can be judged, or the champion can't be compared with.
        TrackingAwayError: the registry is away; the same command carries on.
        BusyError: another promotion or rollback is under way.
    """
    candidate = read_candidate(dataset, params, workspace)
    with registry_turn(dataset, workspace) as registry:
        champion = registry.aliased(CHAMPION)
        if champion and champion.tags.get(IDENTITY) == candidate.identity:
            registry.dismiss(champion)
            if run_exists(str(champion.run_id)):
                _log_report(dataset, registry.client, str(champion.run_id), workspace)
            return Verdict(registry.name, str(champion.version), candidate.architecture, False, [])
        run = served_run(candidate, registry.client, workspace)
        gates = _gates(candidate, run, champion, registry, params, workspace, again)
        require_unchanged_inputs()
        version = _register(candidate, run, gates, registry, workspace)
        if reasons(gates):
            registry.challenge(version)
        else:
            require_whole(version, registry.client)
            require_unchanged_inputs()
            _crown(version, champion, candidate, registry)
        return Verdict(registry.name, str(version.version), candidate.architecture, True, gates)


def _gates(
    candidate: Candidate,
    run: Run,
    champion: ModelVersion | None,
    registry: Registry,
    params: Params,
    workspace: Workspace,
    again: bool,
) -> list[Gate]:
    leaky = candidate.leaky or run.data.tags.get("leaky") == "true"
    before = [leak_gate(leaky), rolled_back_gate(_rolled_back(candidate, champion, registry), again)]
    if champion is None:
        return [*before, *judge(unseen(candidate.test, candidate.seen), None, params)]
    known = read_champion(champion, registry.client)
    patches = unseen(candidate.test, candidate.seen, known.seen)
    theirs = champion_probabilities(known, patches, workspace.store(candidate.dataset))
    return [*before, *judge(patches, theirs, params)]


def _rolled_back(candidate: Candidate, champion: ModelVersion | None, registry: Registry) -> str | None:
    """When the candidate's training was taken back, under whatever threshold; the champion isn't, tagged or not."""
    versions = [version for version in registry.of_training(candidate.training) if ROLLED_BACK in version.tags]
    standing = str(champion.version) if champion else None
    return max((version.tags[ROLLED_BACK] for version in versions if str(version.version) != standing), default=None)


def _register(
    candidate: Candidate, run: Run, gates: Sequence[Gate], registry: Registry, workspace: Workspace
) -> ModelVersion:
    """The version with its card and tags; the run keeps what later promotions need of it."""
    run_id = run.info.run_id
    card = model_card(read_facts(candidate, run, workspace))
    kept = keep(candidate, card, registry.client, run_id)
    _log_report(candidate.dataset, registry.client, run_id, workspace)
    tags = _tags(candidate, run, workspace) | _verdict_tags(gates) | {KEPT_TAG: kept}
    return registry.register(run.data.tags[SERVED_MODEL_TAG], run_id, tags, description(card, kept))


def _log_report(dataset: str, client: MlflowClient, run_id: str, workspace: Workspace) -> None:
    """What the model was compared with, to be looked at beside it: the page and its two pictures of the ranking."""
    for name in REPORT_FILES:
        path = workspace.report(dataset) / name
        if path.exists():
            log_if_changed(client, run_id, path, "report")


def _tags(candidate: Candidate, run: Run, workspace: Workspace) -> dict[str, str]:
    record, point = candidate.record, candidate.point
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
        **{name: run.data.tags[name] for name in LINEAGE if name in run.data.tags},
    }


def _verdict_tags(gates: Sequence[Gate]) -> dict[str, str]:
    """The verdict, and each gate as `gate.NAME`, `gate.NAME.measured` and `gate.NAME.limit`."""
    failed = reasons(gates)
    tags = {"verdict": REFUSED if failed else PROMOTED, "reasons": "; ".join(failed) or "none"}
    for gate in gates:
        tags[f"gate.{gate.name}"] = "passed" if gate.passed else "failed"
        tags[f"gate.{gate.name}.measured"] = "undefined" if gate.measured is None else str(gate.measured)
        tags[f"gate.{gate.name}.limit"] = str(gate.limit)
    return tags


def _crown(version: ModelVersion, champion: ModelVersion | None, candidate: Candidate, registry: Registry) -> None:
    """Tags first, the alias last: killed in between, the old champion stands, and the same command goes on."""
    before = str(champion.version) if champion else None
    if before:
        registry.tag(version, {PREVIOUS: before})
    else:
        registry.untag(version, PREVIOUS)
    for earlier in registry.of_training(candidate.training):
        registry.untag(earlier, ROLLED_BACK)  # by now it was asked for
    if champion:
        registry.untag(champion, ROLLED_BACK)  # of a rollback that was killed before it moved the alias
    registry.crown(version, before)


def rollback(dataset: str, workspace: Workspace) -> tuple[str, str]:
    """Let the champion before the present one be champion again.

    Returns:
        Numbers of the version taken back and of the champion now.

    Raises:
        PromotionError: there is no champion, or none before it.
        TrackingAwayError: the registry is away; the same command carries on.
        BusyError: another promotion or rollback is under way.
    """
    with registry_turn(dataset, workspace) as registry:
        champion = registry.aliased(CHAMPION)
        if champion is None:
            raise PromotionError(f"{registry.name} has no champion to roll back: run `histopipe promote {dataset}`")
        target = _before(champion, registry)
        if target is None:
            raise PromotionError(
                f"nothing to go back to: no champion of {registry.name} before version {champion.version} is left; "
                f"promote another model (`histopipe promote {dataset}`)"
            )
        require_whole(target, registry.client)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        registry.tag(champion, {"verdict": TAKEN_BACK, ROLLED_BACK: now})
        registry.tag(target, {"verdict": PROMOTED, "reasons": f"version {champion.version} was rolled back"})
        registry.crown(target, str(champion.version))
        return str(champion.version), str(target.version)


def _before(champion: ModelVersion, registry: Registry) -> ModelVersion | None:
    """The nearest earlier champion that still exists and wasn't rolled back itself."""
    passed = {str(champion.version)}
    number = champion.tags.get(PREVIOUS)
    while number and number not in passed:
        passed.add(number)
        version = registry.version(number)
        if version is None:
            return None
        if ROLLED_BACK not in version.tags:
            return version
        number = version.tags.get(PREVIOUS)
    return None
