"""The gates on data: which model may replace a champion of other data, or one that was trained in full."""

from __future__ import annotations

from dataclasses import replace

from histopipe.core.workspace import Workspace
from histopipe.promotion.gates import Gate
from histopipe.tracking.provenance import Provenance, Relation, data_here, relate


def relation_to(champion: Provenance, candidate: Provenance, workspace: Workspace) -> Relation:
    """Compare the champion's data with the candidate's, which is in this checkout."""
    here = data_here(candidate.dataset, workspace)
    own = replace(candidate, labels=here.labels, archives=candidate.archives | here.archives)
    return relate(champion, own)


def data_gates(
    relation: Relation, champion: Provenance, candidate: Provenance, version: str, named: bool
) -> list[Gate]:
    """Compare the data of champion and candidate, and check that each was trained in full.

    Drawn slides and capped trainings are for trying out, so they never replace a champion of other data. A model of
    real data, trained in full, replaces one of drawn slides, or one whose data isn't recorded.

    Args:
        relation: the relation of the champion's data to the candidate's.
        champion: the champion's data.
        candidate: the candidate's data.
        version: the number of the champion's version.
        named: whether the user named this champion as one that may be replaced all the same.
    """
    in_full = not candidate.drawn and not candidate.capped
    free = champion.drawn or relation.verdict == "unknown"
    passed = relation.verdict == "same" or (in_full and free) or named
    gates = [Gate("data", passed, relation.verdict, _unless_replaced("same", version), f"({relation.reason})")]
    if candidate.capped:
        fits = champion.capped is True or named
        gates.append(Gate("quick", fits, "yes", _unless_replaced("no, as of the champion", version)))
    return gates


def unavailable_gate(version: str) -> Gate:
    """Return the gate for a champion that the user named and whose files are gone, so that nothing can be compared."""
    return Gate("data", True, "unknown", _unless_replaced("same", version), "(its files are gone)")


def _unless_replaced(condition: str, version: str) -> str:
    return f"{condition}, or to be asked for with --replace {version}"
