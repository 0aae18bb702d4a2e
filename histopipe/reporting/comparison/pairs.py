"""Every two models of a comparison, on the same cases."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from histopipe.evaluation.case_parts import CaseMetrics, CaseParts
from histopipe.evaluation.delong import clustered_delong, is_applicable
from histopipe.evaluation.differences import Flips, rank_ranges
from histopipe.evaluation.grading import predictions_of
from histopipe.evaluation.metrics import Predictions
from histopipe.reporting.comparison.evaluations import EvaluatedModel
from histopipe.reporting.comparison.record import JudgedPair, ModelRow, Pair, RankedRow

COMPARED = ("roc_auc", "average_precision", "balanced_accuracy")
SEPARATING = "roc_auc"  # the metric of the ranking; one test per pair, so that the correction need not pay for others
SIGNIFICANCE = 0.05


def compare_pairs(evaluated: Sequence[EvaluatedModel], resamples: int, seed: int) -> list[JudgedPair]:
    """Differences of every two models on the test split, the one that stands first less the other.

    The recipes are what is compared, so the pairs of two recipes are the family that p-values are corrected for. A pair
    with a descriptive row, such as the ensemble, gets its intervals and no verdict.

    Args:
        evaluated: in the order of the ranking.
        resamples: how many turns of cases stand behind each p-value at least, where not all are tried.
        seed: decides which turns are drawn, the same ones for all pairs.

    Returns:
        Per pair `first`, `second`, `differences` (value, interval and p by metric), `p_corrected` (step-down maxT, over
        the pairs of recipes), `p_delong` (None where it doesn't hold) and whether the two are `separable`; the last is
        None, as is `p_corrected`, where a row is `descriptive`.
    """
    tested = [_by_file(each) for each in evaluated]
    by_case = [CaseMetrics(predictions, COMPARED) for predictions in tested]
    places = list(combinations(range(len(evaluated)), 2))
    apart = [by_case[one].minus(by_case[other]) for one, other in places]
    measured = Flips([parts[name] for parts in apart for name in COMPARED], seed, resamples).estimates()
    pairs: list[Pair] = [
        {
            "first": evaluated[one].row["architecture"],
            "second": evaluated[other].row["architecture"],
            "differences": dict(zip(COMPARED, measured[start:], strict=False)),
            "p_delong": _p_delong(tested[one], tested[other]),
            "descriptive": any(is_descriptive(evaluated[place].row) for place in (one, other)),
        }
        for start, (one, other) in zip(range(0, len(measured), len(COMPARED)), places, strict=True)
    ]
    return _with_verdicts(pairs, [parts[SEPARATING] for parts in apart], resamples, seed)


def is_descriptive(row: ModelRow | Pair) -> bool:
    """Whether a row is no recipe that could be chosen by its rank; of a pair: whether either row is none."""
    return bool(row.get("descriptive"))


def _by_file(evaluated: EvaluatedModel) -> Predictions:
    """The test patches in an order that all models share."""
    return predictions_of(evaluated.predictions.sort_values("file", kind="stable"), "test")


def _p_delong(one: Predictions, other: Predictions) -> float | None:
    return getattr(clustered_delong(one, other), "p", None) if is_applicable(one) else None


def _with_verdicts(
    pairs: Sequence[Pair], separating: Sequence[CaseParts], resamples: int, seed: int
) -> list[JudgedPair]:
    """Each pair with its corrected p-value and the verdict."""
    family = [place for place, pair in enumerate(pairs) if not pair["descriptive"]]
    corrected = Flips([separating[place] for place in family], seed, resamples).corrected_p_values()
    p_values = {place: float(p) for place, p in zip(family, corrected, strict=True)}
    return [_judged(pair, p_values.get(place)) for place, pair in enumerate(pairs)]


def _judged(pair: Pair, p: float | None) -> JudgedPair:
    return {**pair, "p_corrected": p, "separable": None if p is None else p < SIGNIFICANCE}


def with_rank_ranges(rows: Sequence[ModelRow], pairs: Sequence[JudgedPair]) -> list[RankedRow]:
    """The rows with their `rank`, and `rank_range`: the first and last rank that the pairs leave possible.

    Descriptive rows stand where their ROC AUC puts them and have no rank: both are None.
    """
    ranked = [row["architecture"] for row in rows if not is_descriptive(row)]
    place = {name: number for number, name in enumerate(ranked)}
    better = [(place[pair["first"]], place[pair["second"]]) for pair in pairs if pair["separable"]]
    ranges = rank_ranges(len(ranked), better)
    return [
        {"rank": place[name] + 1, "rank_range": list(ranges[place[name]]), **row}
        if (name := row["architecture"]) in place
        else {"rank": None, "rank_range": None, **row}
        for row in rows
    ]
