"""A model belongs to its data: who may replace a champion of other data, or one that was trained in full."""

from __future__ import annotations

from dataclasses import replace

from histopipe.paths import Workspace
from histopipe.promotion.gates import Gate
from histopipe.provenance import Provenance, Relation, data_here, relate


def relation_to(champion: Provenance, candidate: Provenance, workspace: Workspace) -> Relation:
    """How the champion's data and the candidate's, which lies in this checkout, are related."""
    here = data_here(candidate.dataset, workspace)
    own = replace(candidate, labels=here.labels, archives=candidate.archives | here.archives)
    return relate(champion, own)


def data_gates(
    relation: Relation, champion: Provenance, candidate: Provenance, version: str, named: str | None
) -> list[Gate]:
    """Hold the data of champion and candidate beside each other, and whether each was trained in full.

    Drawn slides and capped trainings are for trying out: they never take the place of a champion of other data. Real
    data in full takes that of drawn slides, and of data of which nothing is recorded.

    Args:
        relation: of the champion's data to the candidate's.
        champion: its data.
        candidate: its data.
        version: the champion's number.
        named: the number of the champion that may be replaced all the same, if somebody named one.
    """
    in_full = not candidate.drawn and not candidate.capped
    free = champion.drawn or relation.verdict == "unknown"
    asked = named == version
    passed = relation.verdict == "same" or (in_full and free) or asked
    wanted = f"same, or to be asked for with --replace {version}"
    gates = [Gate("data", passed, relation.verdict, wanted, f"({relation.reason})")]
    if candidate.capped:
        fits = champion.capped is True or asked
        gates.append(Gate("quick", fits, "yes", f"no, as of the champion, or to be asked for with --replace {version}"))
    return gates
