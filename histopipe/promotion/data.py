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
    relation: Relation, champion: Provenance, candidate: Provenance, version: str, replaceable: bool
) -> list[Gate]:
    """Return the gate on equal data and, for a candidate trained under `quick`, the gate that the champion was too.

    Synthetic slides and capped trainings are for trying out: a model of either replaces a champion of other data only
    if the user allows it, and a capped one no champion that was trained in full. A model of real data, trained in full,
    replaces one of synthetic slides, or one whose data isn't recorded.

    Args:
        relation: the relation of the champion's data to the candidate's.
        champion: the champion's data.
        candidate: the candidate's data.
        version: the number of the champion's version.
        replaceable: whether the user allowed this champion to be replaced all the same (`--replace`).
    """
    in_full = not candidate.is_synthetic and not candidate.capped
    free = champion.is_synthetic or relation.verdict == "unknown"
    passed = relation.verdict == "same" or (in_full and free) or replaceable
    gates = [Gate("data", passed, relation.verdict, _unless_replaced("same", version), f"({relation.reason})")]
    if candidate.capped:
        fits = champion.capped is True or replaceable
        gates.append(Gate("quick", fits, "yes", _unless_replaced("no, as of the champion", version)))
    return gates


def unavailable_gate(version: str) -> Gate:
    """Return a passed gate, which records that a replaceable champion's files are gone and nothing was compared."""
    return Gate("data", True, "unknown", _unless_replaced("same", version), "(its files are gone)")


def _unless_replaced(condition: str, version: str) -> str:
    return f"{condition}, or to be asked for with --replace {version}"
