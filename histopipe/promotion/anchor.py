"""The anchor: a reference model whose ROC AUC no champion may undercut by more than `promotion.total_margin`.

Champions that each lose a little could together lose much; comparing with the anchor limits that. It is the first
accepted model, and a tag of the registered model holds its version. It moves in two cases only: by `histopipe promote
DATASET --move-anchor`, and where the champion is replaced by a model of other data, with which it can't be compared any
more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from histopipe.core.errors import PromotionError
from histopipe.core.params import Params
from histopipe.core.workspace import Workspace
from histopipe.promotion.candidate import Candidate
from histopipe.promotion.champion import champion_probabilities, read_champion
from histopipe.promotion.data import relation_to
from histopipe.promotion.gates import Gate, Reference
from histopipe.promotion.unseen_cases import unseen_patches
from histopipe.tracking.registry import IDENTITY, Registry

if TYPE_CHECKING:
    from histopipe.tracking.entities import ModelVersion

ANCHOR = "anchor"  # tag of the registered model: a version's number
NEXT_ANCHOR = "next_anchor"  # tag of a version that becomes the anchor as soon as it is champion


@dataclass(frozen=True)
class AnchorState:
    """The anchor of a registered model.

    Attributes:
        version: the anchor's version; None if there is no anchor, or its version was deleted.
        number: its number, also if that version was deleted; None if there is no anchor.
        note: a sentence for users if the anchor has just changed; empty otherwise.
    """

    version: ModelVersion | None
    number: str | None
    note: str = ""


def find_anchor(registry: Registry, champion: ModelVersion | None, move: bool = False) -> AnchorState:
    """Find the anchor; a champion without an anchor becomes the anchor itself.

    Args:
        registry: the data set's registry.
        champion: the version that is champion now.
        move: make the champion the anchor, whatever the anchor was.
    """
    number = registry.model_tags().get(ANCHOR) or None
    version = registry.version(number) if number else None
    if champion is None:
        if move and number:
            drop_anchor(registry)
            return AnchorState(None, None, f"version {number} is no longer the anchor; the next champion will be")
        return AnchorState(version, number)
    champion_number = str(champion.version)
    if number == champion_number:
        return AnchorState(version, number)
    if number is None:
        note = f"version {champion_number} was champion without an anchor, and is the anchor from now on"
    elif move:
        note = f"version {champion_number} is the anchor from now on, instead of version {number}"
    elif version is not None and version.tags.get(IDENTITY, number) == champion.tags.get(IDENTITY):
        note = f"the anchor, version {number}, is the model that is version {champion_number} now"
    else:
        return AnchorState(version, number)
    set_anchor(registry, champion_number)
    return AnchorState(champion, champion_number, note)


def set_anchor(registry: Registry, number: str) -> None:
    """Make a version the anchor; this writes one row of the database."""
    registry.tag_model(ANCHOR, number)


def drop_anchor(registry: Registry) -> None:
    """Remove the anchor; the next champion becomes the anchor."""
    registry.client.delete_registered_model_tag(registry.name, ANCHOR)


def announce_anchor(registry: Registry, version: ModelVersion, becomes_anchor: bool) -> None:
    """Record, before the champion's alias moves to a version, whether that version also becomes the anchor.

    If the process is killed before the alias moves, nothing changes. If it is killed afterwards, the champion has the
    tag, and `settle_anchor` continues from there.
    """
    if becomes_anchor:
        registry.tag(version, {NEXT_ANCHOR: "true"})
    else:
        registry.untag(version, NEXT_ANCHOR)


def settle_anchor(registry: Registry, champion: ModelVersion | None) -> bool:
    """Make the champion the anchor if that was announced; return whether it was.

    Args:
        registry: the data set's registry.
        champion: the version that is champion, with its current tags.
    """
    if champion is None or NEXT_ANCHOR not in champion.tags:
        return False
    set_anchor(registry, str(champion.version))
    registry.untag(champion, NEXT_ANCHOR)
    return True


def is_anchor(registry: Registry, version: ModelVersion) -> bool:
    """Return whether a version is the anchor, or the same model registered again."""
    number = registry.model_tags().get(ANCHOR)
    if number in (None, str(version.version)):
        return number is not None
    anchor = registry.version(str(number))
    identity = version.tags.get(IDENTITY)
    return anchor is not None and identity is not None and anchor.tags.get(IDENTITY) == identity


def anchor_reference(
    anchor: AnchorState,
    candidate: Candidate,
    registry: Registry,
    params: Params,
    workspace: Workspace,
) -> Reference | Gate | None:
    """Return the anchor's predictions, with which a candidate is compared in addition to the champion's.

    Returns:
        The anchor's predictions. A gate that fails, if they aren't available or share no cases with the candidate's.
        None if there is no anchor.
    """
    if anchor.number is None:
        return None
    failed_gate = _failed_gate(anchor.number, candidate.dataset, -params.promotion.anchor_margin)
    if anchor.version is None:
        return failed_gate("was deleted from the registry")
    try:
        model = read_champion(anchor.version, registry.client)
        relation = relation_to(model.made_from, candidate.made_from, workspace)
        if relation.verdict == "other":
            return failed_gate(f"is made from other data ({relation.reason})")
        patches = unseen_patches(candidate, workspace, model)
        if patches.empty:
            return failed_gate("and this model have no test case in common that neither has seen")
        probabilities = champion_probabilities(model, patches, workspace.store(candidate.dataset))
        return Reference(f"version {anchor.number}", patches, probabilities)
    except PromotionError:
        return failed_gate("can't be compared with, since its files are gone")


def _failed_gate(number: str, dataset: str, limit: float) -> Callable[[str], Gate]:
    """Return a function that makes the failed gate of an anchor from the reason why nothing can be compared with it."""

    def gate(reason: str) -> Gate:
        remedy = f"`histopipe promote {dataset} --move-anchor` makes the champion the anchor"
        return Gate(ANCHOR, False, None, limit, f"(the anchor, version {number}, {reason}: {remedy})")

    return gate
