"""A model belongs to its data: who may replace a champion of other data, or one that was trained in full."""

from __future__ import annotations

from dataclasses import replace

from histopipe.core.workspace import Workspace
from histopipe.promotion.gates import Gate
from histopipe.tracking.provenance import Provenance, Relation, data_here, relate


def relation_to(champion: Provenance, candidate: Provenance, workspace: Workspace) -> Relation:
    """How the champion's data and the candidate's, which lies in this checkout, are related."""
    here = data_here(candidate.dataset, workspace)
    own = replace(candidate, labels=here.labels, archives=candidate.archives | here.archives)
    return relate(champion, own)


def data_gates(
    relation: Relation, champion: Provenance, candidate: Provenance, version: str, named: bool
) -> list[Gate]:
    """Hold the data of champion and candidate beside each other, and whether each was trained in full.

    Drawn slides and capped trainings are for trying out: they never take the place of a champion of other data. Real
    data in full takes that of drawn slides, and of data of which nothing is recorded.

    Args:
        relation: of the champion's data to the candidate's.
        champion: its data.
        candidate: its data.
        version: the champion's number.
        named: whether somebody named this champion as one that may be replaced all the same.
    """
    in_full = not candidate.drawn and not candidate.capped
    free = champion.drawn or relation.verdict == "unknown"
    passed = relation.verdict == "same" or (in_full and free) or named
    gates = [Gate("data", passed, relation.verdict, _wanted("same", version), f"({relation.reason})")]
    if candidate.capped:
        fits = champion.capped is True or named
        gates.append(Gate("quick", fits, "yes", _wanted("no, as of the champion", version)))
    return gates


def lost_gate(version: str) -> Gate:
    """The gate of a champion that was named, and can't be compared with since its files are gone."""
    return Gate("data", True, "unknown", _wanted("same", version), "(its files are gone)")


def _wanted(what: str, version: str) -> str:
    return f"{what}, or to be asked for with --replace {version}"
