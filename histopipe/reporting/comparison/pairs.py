"""Pairs of models of a comparison, on the same cases."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from histopipe.evaluation.case_parts import CaseMetrics, CaseParts
from histopipe.evaluation.delong import clustered_delong, is_applicable
from histopipe.evaluation.differences import Flips, rank_ranges
from histopipe.evaluation.metrics import Predictions
from histopipe.evaluation.predictions import predictions_of
from histopipe.reporting.comparison.evaluations import EvaluatedModel
from histopipe.reporting.comparison.record import JudgedPair, ModelRow, Pair, RankedRow

COMPARED = ("roc_auc", "average_precision", "balanced_accuracy")
SEPARATING = "roc_auc"  # the metric of the ranking; one test per pair, so that p-values are corrected for fewer tests
SIGNIFICANCE = 0.05


def compare_pairs(evaluated: Sequence[EvaluatedModel], resamples: int, seed: int) -> list[JudgedPair]:
    """Compare all pairs of models on the test split: the model that ranks higher minus the other one.

    P-values are corrected for the pairs of two recipes. A pair with a descriptive row, such as the ensemble, gets
    intervals and no verdict.

    Args:
        evaluated: the models in the order of the ranking.
        resamples: least number of sign flips for each p-value, where not all combinations are tried.
        seed: seed of the flips, which are the same for all pairs.

    Returns:
        Per pair: `first`, `second`, `differences` (value, interval and p by metric), `p_corrected` (step-down maxT,
        over the pairs of recipes), `p_delong` (None if the test isn't applicable) and whether the two are `separable`.
        `p_corrected` and `separable` are None if a row is `descriptive`.
    """
    predictions = [_by_file(model) for model in evaluated]
    metrics = [CaseMetrics(model, COMPARED) for model in predictions]
    numbers = list(combinations(range(len(evaluated)), 2))
    differences = [metrics[first].minus(metrics[second]) for first, second in numbers]
    estimates = Flips([parts[name] for parts in differences for name in COMPARED], seed, resamples).estimates()
    pairs: list[Pair] = [
        {
            "first": evaluated[first].row["architecture"],
            "second": evaluated[second].row["architecture"],
            "differences": dict(zip(COMPARED, estimates[start:], strict=False)),
            "p_delong": _p_delong(predictions[first], predictions[second]),
            "descriptive": any(is_descriptive(evaluated[number].row) for number in (first, second)),
        }
        for start, (first, second) in zip(range(0, len(estimates), len(COMPARED)), numbers, strict=True)
    ]
    return _with_verdicts(pairs, [parts[SEPARATING] for parts in differences], resamples, seed)


def is_descriptive(row: ModelRow | Pair) -> bool:
    """Return whether a row isn't a recipe, and so has no rank; for a pair, whether either row isn't a recipe."""
    return bool(row.get("descriptive"))


def _by_file(evaluated: EvaluatedModel) -> Predictions:
    """Return a model's predictions of the test split, in the order of files, which all models share."""
    return predictions_of(evaluated.predictions.sort_values("file", kind="stable"), "test")


def _p_delong(first: Predictions, second: Predictions) -> float | None:
    return getattr(clustered_delong(first, second), "p", None) if is_applicable(first) else None


def _with_verdicts(
    pairs: Sequence[Pair], separating: Sequence[CaseParts], resamples: int, seed: int
) -> list[JudgedPair]:
    """Add the corrected p-value and the verdict to each pair."""
    family = [number for number, pair in enumerate(pairs) if not pair["descriptive"]]
    corrected = Flips([separating[number] for number in family], seed, resamples).corrected_p_values()
    p_values = {number: float(p) for number, p in zip(family, corrected, strict=True)}
    return [_judge(pair, p_values.get(number)) for number, pair in enumerate(pairs)]


def _judge(pair: Pair, p: float | None) -> JudgedPair:
    return {**pair, "p_corrected": p, "separable": None if p is None else p < SIGNIFICANCE}


def with_rank_ranges(rows: Sequence[ModelRow], pairs: Sequence[JudgedPair]) -> list[RankedRow]:
    """Add `rank` and `rank_range`, the first and last rank that the pairs leave possible, to the rows.

    Descriptive rows keep their position by ROC AUC and have no rank: both are None.
    """
    ranked = [row["architecture"] for row in rows if not is_descriptive(row)]
    order = {name: number for number, name in enumerate(ranked)}
    better = [(order[pair["first"]], order[pair["second"]]) for pair in pairs if pair["separable"]]
    ranges = rank_ranges(len(ranked), better)
    return [
        {"rank": order[name] + 1, "rank_range": list(ranges[order[name]]), **row}
        if (name := row["architecture"]) in order
        else {"rank": None, "rank_range": None, **row}
        for row in rows
    ]
