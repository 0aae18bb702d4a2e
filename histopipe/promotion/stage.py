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

from histopipe.core.errors import PromotionError
from histopipe.core.params import Params
from histopipe.core.stages.inputs import require_unchanged_inputs
from histopipe.core.workspace import Workspace
from histopipe.promotion.anchor import announce_anchor, is_anchor, settle_anchor, standing_anchor
from histopipe.promotion.candidate import Candidate, read_candidate
from histopipe.promotion.gates import Gate, reasons
from histopipe.promotion.judgement import Bench, judge_candidate
from histopipe.promotion.served import require_whole, served_run
from histopipe.promotion.versions import PROMOTED, log_report, register, verdict_tags, whole_champion
from histopipe.tracking.registry import CHAMPION, IDENTITY, PREVIOUS, ROLLED_BACK, Registry, locked_registry
from histopipe.tracking.runs import run_exists

if TYPE_CHECKING:
    from histopipe.tracking.entities import ModelVersion

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
        note: what became of a champion whose files are gone, and of the anchor; empty where all is as it was.
        looks: how often the test cases have been looked at.
    """

    model: str
    version: str
    architecture: str
    changed: bool
    gates: Sequence[Gate]
    note: str = ""
    looks: str = ""

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
        lines += [f"  {'+' if gate.passed else '-'} {gate.reason}" for gate in self.gates]
        return "\n".join(lines + ([f"  {self.looks}"] if self.looks else []))


def held_back(dataset: str, workspace: Workspace) -> str | None:
    """Why the pipeline's own `promote` does nothing here: one line inside of one of DVC's experiments, else None.

    An experiment is for choosing by validation: it mustn't move the checkout's champion, nor look at the gates on test.
    """
    if not (os.environ.get("DVC_EXP_NAME") or workspace.home != workspace.root):
        return None
    return f"experiments don't promote: keep this one with `dvc exp apply`, then run `histopipe promote {dataset}`"


def promote(
    dataset: str,
    params: Params,
    workspace: Workspace,
    again: bool = False,
    replace: str | None = None,
    move_anchor: bool = False,
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
        move_anchor: let the champion be the anchor from now on, before anything is judged.

    Raises:
        PromotionError: no model can be judged, the champion can't be compared with, or isn't the one to be replaced.
        TrackingAwayError: the registry is away; the same command carries on.
        BusyError: another promotion or rollback is under way.
    """
    candidate = read_candidate(dataset, params, workspace)
    with locked_registry(dataset, workspace) as registry:
        standing = registry.version_at(CHAMPION)
        _require_named(standing, replace, registry)
        settled = f"version {standing.version} is the anchor" if standing and settle_anchor(registry, standing) else ""
        champion, note = whole_champion(standing, dataset, registry, params, workspace)
        anchor = standing_anchor(registry, champion, move_anchor)
        note = "; ".join(filter(None, [settled, note, anchor.note]))
        named = champion is not None and replace is not None  # the one named may have been registered again by now
        if champion and champion.tags.get(IDENTITY) == candidate.identity:
            registry.dismiss(champion)
            if run_exists(str(champion.run_id)):
                log_report(dataset, registry.client, str(champion.run_id), workspace)
            return Verdict(registry.name, str(champion.version), candidate.architecture, False, [], note)
        run = served_run(candidate, registry.client, workspace)
        bench = Bench(candidate, run, champion, anchor, registry, params, workspace, again, named)
        judged = judge_candidate(bench)
        require_unchanged_inputs()
        tags = verdict_tags(judged.gates) | judged.looks.tags()
        version = register(candidate, run, tags, registry, workspace)
        if reasons(judged.gates):
            registry.challenge(version)
        else:
            require_whole(version, registry.client)
            require_unchanged_inputs()
            announce_anchor(registry, version, judged.anchors_anew)
            _crown(version, champion, candidate, registry)
            if settle_anchor(registry, registry.version_at(CHAMPION)):
                note = "; ".join(filter(None, [note, f"version {version.version} is the anchor from now on"]))
        return Verdict(
            registry.name, str(version.version), candidate.architecture, True, judged.gates, note, str(judged.looks)
        )


def _require_named(champion: ModelVersion | None, replace: str | None, registry: Registry) -> None:
    """Who names the champion to be replaced must have looked at it: another one may stand there by now."""
    number = str(champion.version) if champion else None
    if replace not in (None, number):
        standing = f"version {number}" if number else "no version"
        raise PromotionError(f"--replace {replace}: {standing} of {registry.name} is champion: name that one, or none")


def _crown(version: ModelVersion, champion: ModelVersion | None, candidate: Candidate, registry: Registry) -> None:
    """Tags first, the alias last: killed in between, the old champion stands, and the same command goes on."""
    before = str(champion.version) if champion else None
    if before:
        registry.tag(version, {PREVIOUS: before})
    else:
        registry.untag(version, PREVIOUS)
    for earlier in registry.versions_of_training(candidate.training):
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
        require_whole(target, registry.client)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        registry.tag(champion, {"verdict": TAKEN_BACK, ROLLED_BACK: now})
        registry.tag(target, {"verdict": PROMOTED, "reasons": f"version {champion.version} was rolled back"})
        announce_anchor(registry, target, is_anchor(registry, champion))
        registry.crown(target, str(champion.version))
        settle_anchor(registry, registry.version(str(target.version)))
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
