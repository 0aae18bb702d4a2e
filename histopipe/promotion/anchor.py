"""The anchor: the model below which no chain of champions may sink, however little each of them loses.

It is the first accepted model; a tag of the registered model holds its version. Promotion only reads it: it moves by
`histopipe promote D --move-anchor`, and where the champion gives way to a model of other data, beside which nothing
could be compared any more.
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
NEXT_ANCHOR = "next_anchor"  # tag of a version that is to be the anchor as soon as it is champion


@dataclass(frozen=True)
class Standing:
    """Where the anchor is.

    Attributes:
        version: of the anchor; None where there is none.
        number: its number, also where that version was deleted.
        note: what people are told where it has changed just now; empty otherwise.
    """

    version: ModelVersion | None
    number: str | None
    note: str = ""


def standing_anchor(registry: Registry, champion: ModelVersion | None, move: bool = False) -> Standing:
    """Find the anchor, or make the champion its own.

    Args:
        registry: of the data set.
        champion: the version that is champion now.
        move: whether the champion is to be the anchor from now on, whatever was.
    """
    number = registry.model_tags().get(ANCHOR) or None
    version = registry.version(number) if number else None
    if champion is None:
        if move and number:
            drop_anchor(registry)
            return Standing(None, None, f"version {number} is no anchor any more; the next champion will be")
        return Standing(version, number)
    own = str(champion.version)
    if number == own:
        return Standing(version, number)
    if number is None:
        why = f"version {own} was champion without an anchor, and is its own from now on"
    elif move:
        why = f"version {own} is the anchor from now on, instead of version {number}"
    elif version is not None and version.tags.get(IDENTITY, number) == champion.tags.get(IDENTITY):
        why = f"the anchor, version {number}, is the model that is version {own} now"
    else:
        return Standing(version, number)
    set_anchor(registry, own)
    return Standing(champion, own, why)


def set_anchor(registry: Registry, number: str) -> None:
    """Let a version be the anchor: one row of the database."""
    registry.tag_model(ANCHOR, number)


def drop_anchor(registry: Registry) -> None:
    """Let there be no anchor; the next champion will be."""
    registry.client.delete_registered_model_tag(registry.name, ANCHOR)


def announce_anchor(registry: Registry, version: ModelVersion, becomes: bool) -> None:
    """Write down before the champion's alias moves to a version whether the anchor follows it.

    A kill before the move changes nothing, and one after it leaves a champion with that tag, see `settle_anchor`.
    """
    if becomes:
        registry.tag(version, {NEXT_ANCHOR: "true"})
    else:
        registry.untag(version, NEXT_ANCHOR)


def settle_anchor(registry: Registry, champion: ModelVersion | None) -> bool:
    """Let the champion be the anchor if that was announced; return whether it was.

    Args:
        registry: of the data set.
        champion: the version that is champion, with its tags of now.
    """
    if champion is None or NEXT_ANCHOR not in champion.tags:
        return False
    set_anchor(registry, str(champion.version))
    registry.untag(champion, NEXT_ANCHOR)
    return True


def is_anchor(registry: Registry, version: ModelVersion) -> bool:
    """Whether a version is the anchor, or the same model registered again."""
    number = registry.model_tags().get(ANCHOR)
    if number in (None, str(version.version)):
        return number is not None
    anchor = registry.version(str(number))
    identity = version.tags.get(IDENTITY)
    return anchor is not None and identity is not None and anchor.tags.get(IDENTITY) == identity


def anchor_beside(
    anchor: Standing,
    candidate: Candidate,
    registry: Registry,
    params: Params,
    workspace: Workspace,
) -> Reference | Gate | None:
    """What the candidate is held against beside the champion.

    Returns:
        The anchor's predictions; a gate that fails, where they can't be had or share no cases with the candidate's;
        None where there is no anchor.
    """
    if anchor.number is None:
        return None
    refused = refusal(anchor.number, candidate.dataset, -params.promotion.anchor_margin)
    if anchor.version is None:
        return refused("was deleted from the registry")
    try:
        known = read_champion(anchor.version, registry.client)
        relation = relation_to(known.made_from, candidate.made_from, workspace)
        if relation.verdict == "other":
            return refused(f"is made from other data ({relation.reason})")
        patches = unseen_patches(candidate, workspace, known)
        if patches.empty:
            return refused("and this model have no test case in common that neither has seen")
        theirs = champion_probabilities(known, patches, workspace.store(candidate.dataset))
        return Reference(f"version {anchor.number}", patches, theirs)
    except PromotionError:
        return refused("can't be compared with, since its files are gone")


def refusal(number: str, dataset: str, limit: float) -> Callable[[str], Gate]:
    """Make the gate of an anchor that nothing can be compared with, given why."""

    def gate(why: str) -> Gate:
        remedy = f"`histopipe promote {dataset} --move-anchor` makes the champion the anchor"
        return Gate(ANCHOR, False, None, limit, f"(the anchor, version {number}, {why}: {remedy})")

    return gate
