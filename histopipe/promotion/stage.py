"""Promotion and rollback: the champion's alias moves last, so that a killed process leaves the old champion.

Everything before that move is tags and artifacts, which the same command writes again; a version is registered once per
training, calibration and threshold. Processes of one checkout take turns under a lock. Machines that share a server see
the alias as one row, so there is always one champion; a process that finds it moved meanwhile stops and can be
repeated.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from histopipe.core.errors import PromotionError
from histopipe.core.params import Params
from histopipe.core.stages.inputs import require_unchanged_inputs
from histopipe.core.workspace import Workspace
from histopipe.promotion.anchor import announce_anchor, find_anchor, is_anchor, settle_anchor
from histopipe.promotion.candidate import Candidate, read_candidate
from histopipe.promotion.gates import Gate, reasons
from histopipe.promotion.judgement import PromotionRequest, judge_candidate
from histopipe.promotion.served import require_intact, served_run
from histopipe.promotion.versions import PROMOTED, log_report, register, restore_champion, verdict_tags
from histopipe.tracking.registry import CHAMPION, IDENTITY, PREVIOUS, ROLLED_BACK, Registry, locked_registry
from histopipe.tracking.runs import run_exists

if TYPE_CHECKING:
    from histopipe.tracking.entities import ModelVersion

TAKEN_BACK = "rolled back"


@dataclass(frozen=True)
class Verdict:
    """The outcome of a promotion.

    Attributes:
        model: the registered model's name.
        version: the number of the candidate's version.
        architecture: the name of the candidate's recipe.
        judged: whether gates were evaluated; False if the candidate is champion already.
        gates: the gates that judged it.
        note: what happened to a champion whose files are gone, and to the anchor; empty if nothing did.
        looks: a sentence on how many models have been compared on these test cases; empty if none has.
    """

    model: str
    version: str
    architecture: str
    judged: bool
    gates: Sequence[Gate]
    note: str = ""
    looks: str = ""

    @property
    def promoted(self) -> bool:
        """Return whether the candidate is champion now."""
        return not reasons(self.gates)

    def __str__(self) -> str:
        title = f"{self.model} version {self.version} ({self.architecture})"
        if not self.judged:
            return f"{title} is champion" + (f": {self.note}" if self.note else " already")
        lines = [f"{title} {'is champion' if self.promoted else 'is refused and becomes challenger'}"]
        lines += [f"  ! {self.note}"] if self.note else []
        lines += [f"  {'+' if gate.passed else '-'} {gate.reason}" for gate in self.gates]
        return "\n".join(lines + ([f"  {self.looks}"] if self.looks else []))


def why_not_promoted(dataset: str, workspace: Workspace) -> str | None:
    """Return the reason why the pipeline's `promote` does nothing in a DVC experiment; None outside of one.

    An experiment is for choosing by validation: it must neither move the checkout's champion nor look at test.
    """
    if not (os.environ.get("DVC_EXP_NAME") or workspace.checkout != workspace.root):
        return None
    return f"experiments don't promote: keep this one with `dvc exp apply`, then run `histopipe promote {dataset}`"


def promote(
    dataset: str,
    params: Params,
    workspace: Workspace,
    again: bool = False,
    replaceable: str | None = None,
    move_anchor: bool = False,
) -> Verdict:
    """Register the best model by validation, and make it champion if every gate holds; else it becomes challenger.

    A champion whose files are gone is first registered again, if this checkout still has its model.

    Args:
        dataset: the data set's name.
        params: parameters with the limits of the gates.
        workspace: the checkout with the evaluations and the settings of the tracking store.
        again: promote the model also if it was rolled back before.
        replaceable: number of the champion that may be replaced despite other data, lost files, or its full training.
        move_anchor: make the champion the anchor before anything is judged.

    Returns:
        The verdict, which lists the gates.

    Raises:
        PromotionError: no model can be judged, the champion can't be compared with, or isn't the one to be replaced.
        TrackingUnreachableError: the registry can't be reached; the same command resumes.
        BusyError: another promotion or rollback is in progress.
    """
    candidate = read_candidate(dataset, params, workspace)
    with locked_registry(dataset, workspace) as registry:
        standing = registry.version_at(CHAMPION)
        _require_champion(standing, replaceable, registry)
        settled = f"version {standing.version} is the anchor" if standing and settle_anchor(registry, standing) else ""
        champion, note = restore_champion(standing, dataset, registry, params, workspace)
        anchor = find_anchor(registry, champion, move_anchor)
        note = "; ".join(filter(None, [settled, note, anchor.note]))
        may_replace = champion is not None and replaceable is not None  # that one may have been registered again by now
        if champion and champion.tags.get(IDENTITY) == candidate.identity:
            registry.remove_challenger(champion)
            if run_exists(str(champion.run_id)):
                log_report(dataset, registry.client, str(champion.run_id), workspace)
            return Verdict(registry.name, str(champion.version), candidate.architecture, False, [], note)
        run = served_run(candidate, registry.client, workspace)
        request = PromotionRequest(candidate, run, champion, anchor, registry, params, workspace, again, may_replace)
        judged = judge_candidate(request)
        require_unchanged_inputs()
        tags = verdict_tags(judged.gates) | judged.looks.tags()
        version = register(candidate, run, tags, registry, workspace)
        if reasons(judged.gates):
            registry.set_challenger(version)
        else:
            require_intact(version, registry.client)
            require_unchanged_inputs()
            announce_anchor(registry, version, judged.becomes_anchor)
            _set_champion(version, champion, candidate, registry)
            if settle_anchor(registry, registry.version_at(CHAMPION)):
                note = "; ".join(filter(None, [note, f"version {version.version} is the anchor from now on"]))
        return Verdict(
            registry.name, str(version.version), candidate.architecture, True, judged.gates, note, str(judged.looks)
        )


def _require_champion(champion: ModelVersion | None, replaceable: str | None, registry: Registry) -> None:
    """Check that the champion is still the one that the user named with `--replace`."""
    number = str(champion.version) if champion else None
    if replaceable not in (None, number):
        current = f"version {number}" if number else "no version"
        raise PromotionError(
            f"--replace {replaceable}: {current} of {registry.name} is champion: name that one, or none"
        )


def _set_champion(
    version: ModelVersion, champion: ModelVersion | None, candidate: Candidate, registry: Registry
) -> None:
    """Write the tags, then move the alias: if killed in between, the old champion stays and the command resumes."""
    before = str(champion.version) if champion else None
    if before:
        registry.tag(version, {PREVIOUS: before})
    else:
        registry.untag(version, PREVIOUS)
    for earlier in registry.versions_of_training(candidate.training):
        registry.untag(earlier, ROLLED_BACK)  # the user has asked for it again
    if champion:
        registry.untag(champion, ROLLED_BACK)  # of a rollback that was killed before it moved the alias
    registry.set_champion(version, before)


def rollback(dataset: str, workspace: Workspace) -> tuple[str, str]:
    """Make the previous champion the champion again.

    Returns:
        The numbers of the version that was rolled back and of the champion now.

    Raises:
        PromotionError: there is no champion, or none before it.
        TrackingUnreachableError: the registry can't be reached; the same command resumes.
        BusyError: another promotion or rollback is in progress.
    """
    with locked_registry(dataset, workspace) as registry:
        champion = registry.version_at(CHAMPION)
        if champion is None:
            raise PromotionError(f"{registry.name} has no champion to roll back: run `histopipe promote {dataset}`")
        settle_anchor(registry, champion)
        target = _before(champion, registry)
        if target is None:
            raise PromotionError(
                f"nothing to go back to: no champion of {registry.name} before version {champion.version} is left; "
                f"promote another model (`histopipe promote {dataset}`)"
            )
        require_intact(target, registry.client)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        registry.tag(champion, {"verdict": TAKEN_BACK, ROLLED_BACK: now})
        registry.tag(target, {"verdict": PROMOTED, "reasons": f"version {champion.version} was rolled back"})
        announce_anchor(registry, target, is_anchor(registry, champion))
        registry.set_champion(target, str(champion.version))
        settle_anchor(registry, registry.version(str(target.version)))
        return str(champion.version), str(target.version)


def _before(champion: ModelVersion, registry: Registry) -> ModelVersion | None:
    """Find the nearest earlier champion that still exists and wasn't rolled back itself."""
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
