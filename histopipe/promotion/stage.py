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
from histopipe.params import Params
from histopipe.paths import Workspace
from histopipe.promotion.candidate import Candidate, read_candidate
from histopipe.promotion.champion import champion_probabilities, read_champion
from histopipe.promotion.data import data_gates, lost_gate, relation_to
from histopipe.promotion.gates import Gate, judge, leak_gate, reasons, rolled_back_gate, unseen
from histopipe.promotion.registry import CHAMPION, IDENTITY, PREVIOUS, ROLLED_BACK, Registry, registry_turn
from histopipe.promotion.served import require_whole, served_run
from histopipe.promotion.versions import PROMOTED, log_report, register, verdict_tags, whole_champion
from histopipe.stage_inputs import require_unchanged_inputs
from histopipe.tracking import run_exists

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

TAKEN_BACK = "rolled back"


@dataclass(frozen=True)
class Verdict:
    """What a promotion came to.

    Attributes:
        model: the registered model's name.
        version: number of the candidate's version.
        architecture: the candidate.
        changed: whether it was judged; a candidate that is champion already isn't.
        gates: what it was judged by.
        note: what became of a champion whose files are gone; empty where they are whole.
    """

    model: str
    version: str
    architecture: str
    changed: bool
    gates: Sequence[Gate]
    note: str = ""

    @property
    def promoted(self) -> bool:
        """Whether it is champion now."""
        return not reasons(self.gates)

    def __str__(self) -> str:
        title = f"{self.model} version {self.version} ({self.architecture})"
        if not self.changed:
            return f"{title} is champion" + (f": {self.note}" if self.note else " already")
        lines = [f"{title} {'is champion' if self.promoted else 'is refused and becomes challenger'}"]
        lines += [f"  ! {self.note}"] if self.note else []
        return "\n".join(lines + [f"  {'+' if gate.passed else '-'} {gate.reason}" for gate in self.gates])


def held_back(dataset: str, workspace: Workspace) -> str | None:
    """Why the pipeline's own `promote` does nothing here: one line inside of one of DVC's experiments, else None.

    An experiment is for choosing by validation: it mustn't move the checkout's champion, nor look at the gates on test.
    """
    if not (os.environ.get("DVC_EXP_NAME") or workspace.home != workspace.root):
        return None
    return f"experiments don't promote: keep this one with `dvc exp apply`, then run `histopipe promote {dataset}`"


def promote(
    dataset: str, params: Params, workspace: Workspace, again: bool = False, replace: str | None = None
) -> Verdict:
    """Register the best model by validation, and make it champion if every gate holds; else it becomes challenger.

    A champion whose files are gone is first registered again, if its model still lies in this checkout.

    Args:
        dataset: the data set's name.
        params: hold the limits.
        workspace: where evaluations and the tracking store are.
        again: also if the model was rolled back before.
        replace: number of the champion that may be replaced though it is of other data, was trained in full where the
            candidate wasn't, or can't be compared with any more.

    Raises:
        PromotionError: no model can be judged, the champion can't be compared with, or isn't the one to be replaced.
        TrackingAwayError: the registry is away; the same command carries on.
        BusyError: another promotion or rollback is under way.
    """
    candidate = read_candidate(dataset, params, workspace)
    with registry_turn(dataset, workspace) as registry:
        standing = registry.aliased(CHAMPION)
        _require_named(standing, replace, registry)
        champion, note = whole_champion(standing, dataset, registry, params, workspace)
        named = champion is not None and replace is not None  # the one named may have been registered again by now
        if champion and champion.tags.get(IDENTITY) == candidate.identity:
            registry.dismiss(champion)
            if run_exists(str(champion.run_id)):
                log_report(dataset, registry.client, str(champion.run_id), workspace)
            return Verdict(registry.name, str(champion.version), candidate.architecture, False, [], note)
        run = served_run(candidate, registry.client, workspace)
        gates = _gates(candidate, run, champion, registry, params, workspace, again, named)
        require_unchanged_inputs()
        version = register(candidate, run, verdict_tags(gates), registry, workspace)
        if reasons(gates):
            registry.challenge(version)
        else:
            require_whole(version, registry.client)
            require_unchanged_inputs()
            _crown(version, champion, candidate, registry)
        return Verdict(registry.name, str(version.version), candidate.architecture, True, gates, note)


def _require_named(champion: ModelVersion | None, replace: str | None, registry: Registry) -> None:
    """Who names the champion to be replaced must have looked at it: another one may stand there by now."""
    number = str(champion.version) if champion else None
    if replace not in (None, number):
        standing = f"version {number}" if number else "no version"
        raise PromotionError(f"--replace {replace}: {standing} of {registry.name} is champion: name that one, or none")


def _gates(
    candidate: Candidate,
    run: Run,
    champion: ModelVersion | None,
    registry: Registry,
    params: Params,
    workspace: Workspace,
    again: bool,
    named: bool,
) -> list[Gate]:
    leaky = candidate.leaky or run.data.tags.get("leaky") == "true"
    before = [leak_gate(leaky), rolled_back_gate(_rolled_back(candidate, champion, registry), again)]
    if champion is None:
        return [*before, *judge(unseen(candidate.test, candidate.seen), None, params)]
    return [*before, *_against(champion, candidate, registry, params, workspace, named)]


def _against(
    champion: ModelVersion,
    candidate: Candidate,
    registry: Registry,
    params: Params,
    workspace: Workspace,
    named: bool,
) -> list[Gate]:
    """The gates beside a champion; floors alone count where it is of other data, or is named and its files are gone."""
    number, alone = str(champion.version), unseen(candidate.test, candidate.seen)
    try:
        known = read_champion(champion, registry.client)
        relation = relation_to(known.made_from, candidate.made_from, workspace)
        gates = data_gates(relation, known.made_from, candidate.made_from, number, named)
        if relation.verdict != "other":
            patches = unseen(candidate.test, candidate.seen, known.seen)
            theirs = champion_probabilities(known, patches, workspace.store(candidate.dataset))
            return [*gates, *judge(patches, theirs, params)]
    except PromotionError:
        if not named:
            raise
        gates = [lost_gate(number)]
    return [*gates, *judge(alone, None, params)]


def _rolled_back(candidate: Candidate, champion: ModelVersion | None, registry: Registry) -> str | None:
    """When the candidate's training was taken back, under whatever threshold; the champion isn't, tagged or not."""
    versions = [version for version in registry.of_training(candidate.training) if ROLLED_BACK in version.tags]
    standing = str(champion.version) if champion else None
    return max((version.tags[ROLLED_BACK] for version in versions if str(version.version) != standing), default=None)


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
