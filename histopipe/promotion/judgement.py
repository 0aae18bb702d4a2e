"""A candidate before the gates, beside the champion and the anchor, with the look at its test cases written down."""

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
from histopipe.promotion.anchor import Standing, anchor_beside
from histopipe.promotion.candidate import Candidate
from histopipe.promotion.champion import Champion, champion_probabilities, read_champion
from histopipe.promotion.data import data_gates, lost_gate, relation_to
from histopipe.promotion.gates import Gate, Reference, judge, leak_gate, rolled_back_gate
from histopipe.promotion.unseen_cases import unseen_patches
from histopipe.tracking.ledger import Counts, count_looks, count_unrecorded, number_among_kind, record_look
from histopipe.tracking.registry import ROLLED_BACK, Registry

if TYPE_CHECKING:
    from histopipe.tracking.entities import ModelVersion, Run


@dataclass(frozen=True)
class Bench:
    """All that a candidate is judged by.

    Attributes:
        run: that holds the candidate's served model.
        champion: None where there is none.
        again: whether what was rolled back may come again.
        named: whether somebody named this champion as one that may be replaced.
    """

    candidate: Candidate
    run: Run
    champion: ModelVersion | None
    anchor: Standing
    registry: Registry
    params: Params
    workspace: Workspace
    again: bool
    named: bool


@dataclass(frozen=True)
class Judgement:
    """What the gates say.

    Attributes:
        looks: how often the test cases have been looked at.
        anchors_anew: whether the candidate is to be the anchor, once it is champion: there is none, or the champion
            that gives way to it took the comparison with it.
    """

    gates: list[Gate]
    looks: Counts
    anchors_anew: bool


@dataclass(frozen=True)
class Opponent:
    """The champion as far as the candidate can be compared with it.

    Attributes:
        gates: on data and training.
        table: test patches that neither has seen; of the candidate alone where they can't be compared.
        probability: the champion's, (patches,); None where they can't be compared.
    """

    gates: list[Gate]
    table: pd.DataFrame
    probability: Numbers | None = None


def judge_candidate(bench: Bench) -> Judgement:
    """Hold a candidate against every gate, after the look was written down.

    Raises:
        PromotionError: the champion can't be compared with, and wasn't named as one to be replaced.
    """
    candidate, params = bench.candidate, bench.params
    leaky = worst_state([candidate.leaky, bench.run.data.tags.get("leaky")])
    gates = [
        leak_gate(leaky, params.promotion.unknown_weights == "allow"),
        rolled_back_gate(_rolled_back(bench), bench.again),
    ]
    alone = unseen_patches(candidate, bench.workspace)
    known = _known_champion(bench)
    opponent = _opponent(known, alone, bench)
    anchor = _anchor(known, opponent, bench)
    replaced = bench.champion is not None and opponent.probability is None
    if isinstance(anchor, Gate) and replaced:
        anchor = None
    against = _held_against(opponent, anchor, bench)
    look, earlier = record_look(
        bench.registry,
        candidate.identity,
        against,
        shared_ids(alone["case_id"].unique(), candidate.dataset),
        candidate.graded,
    )
    gates += opponent.gates
    gates += judge(
        opponent.table,
        opponent.probability,
        params,
        number_among_kind(look, earlier),
        anchor if isinstance(anchor, Reference) else None,
        count_unrecorded(look, earlier),
    )
    gates += [anchor] if isinstance(anchor, Gate) else []
    return Judgement(gates, count_looks(look, earlier), bench.anchor.number is None or (replaced and anchor is None))


def _known_champion(bench: Bench) -> Champion | None:
    """What is known of the champion; None where there is none, or its files are gone and it was named."""
    if bench.champion is None:
        return None
    try:
        return read_champion(bench.champion, bench.registry.client)
    except PromotionError:
        if not bench.named:
            raise
        return None


def _opponent(known: Champion | None, alone: pd.DataFrame, bench: Bench) -> Opponent:
    """The gates beside a champion; floors alone count where it is of other data, or is named and its files are gone."""
    candidate = bench.candidate
    if bench.champion is None:
        return Opponent([], alone)
    number = str(bench.champion.version)
    if known is None:
        return Opponent([lost_gate(number)], alone)
    relation = relation_to(known.made_from, candidate.made_from, bench.workspace)
    gates = data_gates(relation, known.made_from, candidate.made_from, number, bench.named)
    if relation.verdict == "other":
        return Opponent(gates, alone)
    patches = unseen_patches(candidate, bench.workspace, known)
    try:
        theirs = champion_probabilities(known, patches, bench.workspace.store(candidate.dataset))
    except PromotionError:
        if not bench.named:
            raise
        return Opponent([lost_gate(number)], alone)
    return Opponent(gates, patches, theirs)


def _anchor(known: Champion | None, opponent: Opponent, bench: Bench) -> Reference | Gate | None:
    """The anchor as it is held against; where it is the champion, what is known of that is used again."""
    is_champion = known is not None and bench.anchor.number == str(known.version.version)
    if not is_champion:
        return anchor_beside(bench.anchor, bench.candidate, bench.registry, bench.params, bench.workspace)
    if opponent.probability is None or opponent.table.empty:
        return None
    return Reference(f"version {bench.anchor.number}", opponent.table, opponent.probability)


def _held_against(opponent: Opponent, anchor: Reference | Gate | None, bench: Bench) -> list[str]:
    """Numbers of the versions that the candidate is compared with."""
    champion = [str(bench.champion.version)] if bench.champion and opponent.probability is not None else []
    return champion + ([str(bench.anchor.number)] if isinstance(anchor, Reference) else [])


def _rolled_back(bench: Bench) -> str | None:
    """When the candidate's training was taken back, under whatever threshold; the champion isn't, tagged or not."""
    tagged = [
        each for each in bench.registry.versions_of_training(bench.candidate.training) if ROLLED_BACK in each.tags
    ]
    standing = str(bench.champion.version) if bench.champion else None
    return max((each.tags[ROLLED_BACK] for each in tagged if str(each.version) != standing), default=None)
