"""The answer of a comparison in one or two sentences."""

from __future__ import annotations

from collections.abc import Sequence

from histopipe.evaluation.figures import format_estimate
from histopipe.evaluation.intervals import Estimate
from histopipe.reporting.comparison.baseline import BASELINE
from histopipe.reporting.comparison.pairs import SEPARATING, is_descriptive
from histopipe.reporting.comparison.record import Comparison, JudgedPair, ModelRow
from histopipe.reporting.comparison.table import p_value, signed


def answer(content: Comparison) -> str:
    """State which recipe is best and by how much, or which others aren't separable, and what colours alone reach.

    Rows that aren't recipes are ignored.

    Args:
        content: content of `comparison.json`.
    """
    best = next(row for row in content["ranking"] if not is_descriptive(row))
    return " ".join(filter(None, [_best(content, best), _beyond_colours(content, best)]))


def _best(content: Comparison, best: ModelRow) -> str:
    name, reached = best["architecture"], format_estimate(best["test"][SEPARATING])
    where = f"on {best['cases']:,} test cases"
    against = [pair for pair in content["pairs"] if pair["first"] == name and not is_descriptive(pair)]
    if not against:
        return f"{name} reaches a ROC AUC of {reached} {where}; there is no other model to compare it with."
    close = [pair for pair in against if not pair["separable"]]
    if close:
        others = join_with_or([pair["second"] for pair in close])
        return f"Not separable: {name} has the highest ROC AUC, {reached} {where}, but isn't separable from {others}."
    return f"{name} is best, with a ROC AUC of {reached} {where}: {_ahead(against[0])}."


def _beyond_colours(content: Comparison, best: ModelRow) -> str:
    """State how far the best model is ahead of the baseline; empty if there is no baseline."""
    name = best["architecture"]
    colours = [row["test"][SEPARATING] for row in content["ranking"] if row["architecture"] == BASELINE]
    pairs = [pair for pair in content["pairs"] if {pair["first"], pair["second"]} == {name, BASELINE}]
    if not colours or not pairs:
        return ""
    ahead = pairs[0]["differences"][SEPARATING]
    ahead = ahead if pairs[0]["first"] == name else reverse_difference(ahead)
    reached = f"Colours alone ({BASELINE}) reach {format_estimate(colours[0])}"
    low, high = ahead["low"], ahead["high"]
    if low is None or high is None or low <= 0 <= high:
        return f"{reached}; {name} isn't distinguishable from them ({signed(ahead)})."
    side = "ahead of" if low > 0 else "behind"
    return f"{reached}; {name} is {side} them ({signed(ahead)})."


def reverse_difference(difference: Estimate) -> Estimate:
    """Change the sign of a difference and its interval."""
    ends = {"value": difference["value"], "low": difference["high"], "high": difference["low"]}
    return difference | {name: None if value is None else -value for name, value in ends.items()}


def _ahead(pair: JudgedPair) -> str:
    difference = pair["differences"][SEPARATING]
    return f"{signed(difference)} ahead of {pair['second']}, the next (p {_with_sign(pair['p_corrected'])}, corrected)"


def _with_sign(p: float | None) -> str:
    shown = p_value(p)
    return shown if shown.startswith("<") else f"= {shown}"


def join_with_or(names: Sequence[str]) -> str:
    """Join names to `a`, `a or b`, `a, b or c`."""
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
