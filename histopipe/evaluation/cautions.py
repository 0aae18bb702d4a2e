"""When the intervals of an evaluation may be too narrow, and why.

An interval is made from the cases at hand. Where they lack what decides, such as the one large and hard slide in
thirty, nothing in them tells how wide it should be. What they do show are signs of it. Simulation (`python -m
benchmarks.regimes`, docs/evaluation.md) says how often intervals hold the truth where these signs stand.
"""

from __future__ import annotations

import numpy as np

from histopipe.evaluation.intervals import effective_cases
from histopipe.evaluation.metrics import Numbers, Predictions

ENOUGH_CASES = 12  # of equal size, with patches of the rarer class
EVEN_SIZES = 0.5  # share of the cases that as many of equal size would be
CHANCE = 0.1  # two-sided, below which sizes and errors go together


def cautions(predictions: Predictions) -> list[str]:
    """Say why the intervals of these patches may be too narrow, a clause for each reason; empty where none is seen.

    Args:
        predictions: the graded patches; at least one.
    """
    return [text for text in (_few_cases(predictions), _uneven_sizes(predictions), _hard_sizes(predictions)) if text]


def _few_cases(predictions: Predictions) -> str:
    count, kind = min(
        (effective_cases(predictions, predictions.labels == label), kind)
        for label, kind in ((1, "positive"), (0, "negative"))
    )
    if count >= ENOUGH_CASES:
        return ""
    cases = "none" if count == 0 else f"as much as {count:.1f} of equal size"
    return f"few cases hold {kind} patches ({cases}; {ENOUGH_CASES} or more give intervals that were tried)"


def _uneven_sizes(predictions: Predictions) -> str:
    count = effective_cases(predictions, np.ones(len(predictions.labels), dtype=bool))
    if count >= EVEN_SIZES * predictions.case_count:
        return ""
    told = f"{predictions.case_count} cases tell as much as {count:.1f} of equal size"
    return f"a few large cases outweigh the others ({told})"


def _hard_sizes(predictions: Predictions) -> str:
    sizes = predictions.per_case(np.ones(len(predictions.labels)))
    errors = predictions.per_case((predictions.probabilities - predictions.labels) ** 2) / sizes
    correlation, chance = _rank_correlation(sizes, errors)
    if correlation <= 0 or chance >= CHANCE:
        return ""
    return f"large cases are harder (rank correlation of a case's patches and its mean squared error {correlation:.2f})"


def _rank_correlation(first: Numbers, second: Numbers) -> tuple[float, float]:
    """Return Spearman's correlation and its two-sided p-value; 0 and 1 where one doesn't vary."""
    from scipy import stats

    if len(first) < 4 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0, 1.0
    correlation, chance = stats.spearmanr(first, second)
    return float(correlation), float(chance)
