"""Reasons why the intervals of an evaluation may be too narrow.

An interval is computed from the cases at hand. If they lack what matters, such as the one large and hard slide in
thirty, the interval can't account for it, but the cases often show signs of the problem. A simulation (`python -m
benchmarks.regimes`, docs/evaluation.md) shows how often intervals contain the true value where these signs appear.
"""

from __future__ import annotations

import numpy as np

from histopipe.evaluation.intervals import effective_cases
from histopipe.evaluation.metrics import Numbers, Predictions

ENOUGH_CASES = 12  # effective number of cases with patches of the rarer class
EVEN_SIZES = 0.5  # least ratio of the effective number of cases to their number
CHANCE = 0.1  # two-sided p-value below which sizes and errors count as correlated


def cautions(predictions: Predictions) -> list[str]:
    """List the reasons why the intervals of these predictions may be too narrow, a clause each; may be empty.

    Args:
        predictions: predictions of at least one patch.
    """
    return [
        text for text in (_few_cases(predictions), _uneven_sizes(predictions), _harder_large_cases(predictions)) if text
    ]


def _few_cases(predictions: Predictions) -> str:
    count, kind = min(
        (effective_cases(predictions, predictions.labels == label), kind)
        for label, kind in ((1, "positive"), (0, "negative"))
    )
    if count >= ENOUGH_CASES:
        return ""
    cases = "none" if count == 0 else f"equivalent to {count:.1f} of equal size"
    return f"few cases hold {kind} patches ({cases}; intervals were validated with {ENOUGH_CASES} or more)"


def _uneven_sizes(predictions: Predictions) -> str:
    count = effective_cases(predictions, np.ones(len(predictions.labels), dtype=bool))
    if count >= EVEN_SIZES * predictions.case_count:
        return ""
    comparison = f"{predictions.case_count} cases are equivalent to {count:.1f} of equal size"
    return f"a few large cases outweigh the others ({comparison})"


def _harder_large_cases(predictions: Predictions) -> str:
    sizes = predictions.per_case(np.ones(len(predictions.labels)))
    errors = predictions.per_case((predictions.probabilities - predictions.labels) ** 2) / sizes
    correlation, chance = _rank_correlation(sizes, errors)
    if correlation <= 0 or chance >= CHANCE:
        return ""
    return f"large cases are harder (rank correlation of case size and mean squared error: {correlation:.2f})"


def _rank_correlation(first: Numbers, second: Numbers) -> tuple[float, float]:
    """Return Spearman's correlation and its two-sided p-value; 0 and 1 where either variable is constant."""
    from scipy import stats

    if len(first) < 4 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0, 1.0
    correlation, chance = stats.spearmanr(first, second)
    return float(correlation), float(chance)
