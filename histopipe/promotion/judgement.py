"""The judgement of a candidate by the gates: compared with champion and anchor, after recording the look at test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from histopipe.core.cases.readings import shared_ids
from histopipe.core.errors import PromotionError
from histopipe.core.params import Params
from histopipe.core.workspace import Workspace
from histopipe.data.leakage import worst_state
from histopipe.evaluation.metrics import Numbers
from histopipe.promotion.anchor import AnchorState, anchor_reference
from histopipe.promotion.candidate import Candidate
from histopipe.promotion.champion import Champion, champion_probabilities, read_champion
from histopipe.promotion.data import data_gates, relation_to, unavailable_gate
from histopipe.promotion.gates import Gate, Reference, evaluate_gates, leak_gate, rolled_back_gate
from histopipe.promotion.unseen_cases import unseen_patches
from histopipe.tracking.ledger import Counts, count_looks, count_unrecorded, number_among_kind, record_look
from histopipe.tracking.registry import ROLLED_BACK, Registry

if TYPE_CHECKING:
    from histopipe.tracking.entities import ModelVersion, Run


@dataclass(frozen=True)
class PromotionRequest:
    """The request to promote a candidate, with all that it is judged by.

    Attributes:
        candidate: the model.
        run: the run that holds the candidate's served model.
        champion: the champion's version; None if there is no champion.
        anchor: the anchor, if there is one.
        registry: the data set's registry.
        params: parameters with the limits of the gates.
        workspace: the checkout with the evaluations.
        again: whether a model that was rolled back may be promoted again.
        replaceable: whether the user allowed this champion to be replaced all the same (`--replace`).
    """

    candidate: Candidate
    run: Run
    champion: ModelVersion | None
    anchor: AnchorState
    registry: Registry
    params: Params
    workspace: Workspace
    again: bool
    replaceable: bool


@dataclass(frozen=True)
class Judgement:
    """The outcome of all gates.

    Attributes:
        gates: the gates with their measurements.
        looks: how often the test cases have been looked at.
        becomes_anchor: whether the candidate also becomes the anchor once it is champion, since there is no anchor, or
            none that can be compared with models of this data.
    """

    gates: list[Gate]
    looks: Counts
    becomes_anchor: bool


@dataclass(frozen=True)
class Opponent:
    """The champion as far as the candidate can be compared with it.

    Attributes:
        gates: the gates on data and training.
        table: test patches that neither has seen; if they can't be compared, those that the candidate hasn't seen.
        probability: the champion's probabilities, (patches,); None if they can't be compared.
    """

    gates: list[Gate]
    table: pd.DataFrame
    probability: Numbers | None = None


def judge_candidate(request: PromotionRequest) -> Judgement:
    """Judge a candidate by every gate, after recording the look at its test cases.

    Raises:
        PromotionError: the champion can't be compared with, and the user didn't allow it to be replaced.
    """
    candidate, params = request.candidate, request.params
    leaky = worst_state([candidate.leaky, request.run.data.tags.get("leaky")])
    gates = [
        leak_gate(leaky, params.promotion.unknown_weights == "allow"),
        rolled_back_gate(_rolled_back(request), request.again),
    ]
    patches = unseen_patches(candidate, request.workspace)
    champion = _read_champion(request)
    opponent = _find_opponent(champion, patches, request)
    anchor = _find_anchor(champion, opponent, request)
    replaced = request.champion is not None and opponent.probability is None
    if isinstance(anchor, Gate) and replaced:
        anchor = None
    versions = _compared_versions(opponent, anchor, request)
    look, earlier = record_look(
        request.registry,
        candidate.identity,
        versions,
        shared_ids(patches["case_id"].unique(), candidate.dataset),
        candidate.compared_runs,
    )
    gates += opponent.gates
    gates += evaluate_gates(
        opponent.table,
        opponent.probability,
        params,
        number_among_kind(look, earlier),
        anchor if isinstance(anchor, Reference) else None,
        count_unrecorded(look, earlier),
    )
    gates += [anchor] if isinstance(anchor, Gate) else []
    return Judgement(gates, count_looks(look, earlier), request.anchor.number is None or (replaced and anchor is None))


def _read_champion(request: PromotionRequest) -> Champion | None:
    """Read the champion; None if there is none, or if its files are gone and it is replaceable."""
    if request.champion is None:
        return None
    try:
        return read_champion(request.champion, request.registry.client)
    except PromotionError:
        if not request.replaceable:
            raise
        return None


def _find_opponent(champion: Champion | None, unseen: pd.DataFrame, request: PromotionRequest) -> Opponent:
    """Return the champion to compare with; only floors count if it is of other data, or named with its files gone."""
    candidate = request.candidate
    if request.champion is None:
        return Opponent([], unseen)
    number = str(request.champion.version)
    if champion is None:
        return Opponent([unavailable_gate(number)], unseen)
    relation = relation_to(champion.made_from, candidate.made_from, request.workspace)
    gates = data_gates(relation, champion.made_from, candidate.made_from, number, request.replaceable)
    if relation.verdict == "other":
        return Opponent(gates, unseen)
    patches = unseen_patches(candidate, request.workspace, champion)
    try:
        probabilities = champion_probabilities(champion, patches, request.workspace.store(candidate.dataset))
    except PromotionError:
        if not request.replaceable:
            raise
        return Opponent([unavailable_gate(number)], unseen)
    return Opponent(gates, patches, probabilities)


def _find_anchor(champion: Champion | None, opponent: Opponent, request: PromotionRequest) -> Reference | Gate | None:
    """Return the anchor to compare with; if it is the champion, the champion's predictions are used again."""
    is_champion = champion is not None and request.anchor.number == str(champion.version.version)
    if not is_champion:
        return anchor_reference(request.anchor, request.candidate, request.registry, request.params, request.workspace)
    if opponent.probability is None or opponent.table.empty:
        return None
    return Reference(f"version {request.anchor.number}", opponent.table, opponent.probability)


def _compared_versions(opponent: Opponent, anchor: Reference | Gate | None, request: PromotionRequest) -> list[str]:
    """Return the numbers of the versions that the candidate is compared with."""
    champion = [str(request.champion.version)] if request.champion and opponent.probability is not None else []
    return champion + ([str(request.anchor.number)] if isinstance(anchor, Reference) else [])


def _rolled_back(request: PromotionRequest) -> str | None:
    """Return when the candidate's training was rolled back, under any threshold; the champion doesn't count."""
    tagged = [
        version
        for version in request.registry.versions_of_training(request.candidate.training)
        if ROLLED_BACK in version.tags
    ]
    champion = str(request.champion.version) if request.champion else None
    return max((version.tags[ROLLED_BACK] for version in tagged if str(version.version) != champion), default=None)
