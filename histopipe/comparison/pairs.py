"""Every two models of a comparison, on the same cases."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from histopipe.comparison.evaluations import Evaluated, Row
from histopipe.evaluation.delong import clustered_delong
from histopipe.evaluation.differences import difference, holm, rank_ranges
from histopipe.evaluation.grading import predictions_of
from histopipe.evaluation.intervals import draw_fewer, informative_cases
from histopipe.evaluation.metrics import Predictions, measure, measure_resamples

COMPARED = ("roc_auc", "average_precision", "balanced_accuracy")
SEPARATING = "roc_auc"  # the metric of the ranking; one test per pair, so that the correction need not pay for others
SIGNIFICANCE = 0.05


def compare_pairs(evaluated: Sequence[Evaluated], resamples: int, seed: int) -> list[Row]:
    """Differences of every two models on the test split, the one that stands first less the other.

    Args:
        evaluated: in the order of the ranking.
        resamples: how many resamples of cases stand behind each interval.
        seed: decides which cases they draw, the same ones for all models.

    Returns:
        Per pair `first`, `second`, `differences` (value, interval and p by metric), `p_corrected` (Holm, over all
        pairs), `p_delong` and whether the two are `separable`.
    """
    tested = [_by_file(each) for each in evaluated]
    values = [measure(predictions) for predictions in tested]
    cases = informative_cases(tested[0])
    spreads = [
        measure_resamples(predictions, draw_fewer(predictions.case_count, resamples, seed)) for predictions in tested
    ]
    pairs: list[Row] = [
        {
            "first": evaluated[one].row["architecture"],
            "second": evaluated[other].row["architecture"],
            "differences": {
                name: difference(
                    values[one][name] - values[other][name], spreads[one][name] - spreads[other][name], cases[name] - 1
                )
                for name in COMPARED
            },
            "p_delong": getattr(clustered_delong(tested[one], tested[other]), "p", None),
        }
        for one, other in combinations(range(len(evaluated)), 2)
    ]
    return _corrected(pairs)


def _by_file(evaluated: Evaluated) -> Predictions:
    """The test patches in an order that all models share."""
    return predictions_of(evaluated.predictions.sort_values("file", kind="stable"), "test")


def _corrected(pairs: Sequence[Row]) -> list[Row]:
    """Each pair with its corrected p-value and the verdict; one that isn't defined counts as 1."""
    found = [pair["differences"][SEPARATING]["p"] for pair in pairs]
    corrected = holm([1.0 if p is None else p for p in found])
    return [
        pair | {"p_corrected": float(p), "separable": bool(p < SIGNIFICANCE)}
        for pair, p in zip(pairs, corrected, strict=True)
    ]


def with_rank_ranges(rows: Sequence[Row], pairs: Sequence[Row]) -> list[Row]:
    """The rows with their `rank`, and `rank_range`: the first and last rank that the pairs leave possible."""
    place = {row["architecture"]: number for number, row in enumerate(rows)}
    better = [(place[pair["first"]], place[pair["second"]]) for pair in pairs if pair["separable"]]
    ranges = rank_ranges(len(rows), better)
    return [
        {"rank": number, "rank_range": list(possible), **row}
        for number, (row, possible) in enumerate(zip(rows, ranges, strict=True), start=1)
    ]
