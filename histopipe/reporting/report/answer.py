"""What a comparison says, in a sentence or two."""

from __future__ import annotations

from collections.abc import Sequence

from histopipe.evaluation.figures import with_interval
from histopipe.evaluation.intervals import Estimate
from histopipe.reporting.comparison.baseline import BASELINE
from histopipe.reporting.comparison.pairs import SEPARATING, is_descriptive
from histopipe.reporting.comparison.record import Comparison, JudgedPair, ModelRow
from histopipe.reporting.comparison.table import p_value, signed


def answer(content: Comparison) -> str:
    """Which recipe is best and by how much, or from which others it can't be told; and what colours alone reach.

    Rows that are no recipes don't count.

    Args:
        content: of `comparison.json`.
    """
    best = next(row for row in content["ranking"] if not is_descriptive(row))
    return " ".join(filter(None, [_best(content, best), _beyond_colours(content, best)]))


def _best(content: Comparison, best: ModelRow) -> str:
    name, reached = best["architecture"], with_interval(best["test"][SEPARATING])
    where = f"on {best['cases']:,} test cases"
    against = [pair for pair in content["pairs"] if pair["first"] == name and not is_descriptive(pair)]
    if not against:
        return f"{name} reaches a ROC AUC of {reached} {where}; there is no other model to compare it with."
    close = [pair for pair in against if not pair["separable"]]
    if close:
        others = listed([pair["second"] for pair in close])
        return f"Not separable: {name} has the highest ROC AUC, {reached} {where}, but can't be told from {others}."
    return f"{name} is best, with a ROC AUC of {reached} {where}: {_ahead(against[0])}."


def _beyond_colours(content: Comparison, best: ModelRow) -> str:
    """How far the best model is ahead of the row that knows colours only; nothing where there is no such row."""
    name = best["architecture"]
    colours = [row["test"][SEPARATING] for row in content["ranking"] if row["architecture"] == BASELINE]
    pairs = [pair for pair in content["pairs"] if {pair["first"], pair["second"]} == {name, BASELINE}]
    if not colours or not pairs:
        return ""
    ahead = pairs[0]["differences"][SEPARATING]
    ahead = ahead if pairs[0]["first"] == name else turned(ahead)
    reached = f"Colours alone ({BASELINE}) reach {with_interval(colours[0])}"
    low, high = ahead["low"], ahead["high"]
    if low is None or high is None or low <= 0 <= high:
        return f"{reached}; {name} can't be told from them ({signed(ahead)})."
    side = "ahead of" if low > 0 else "behind"
    return f"{reached}; {name} is {side} them ({signed(ahead)})."


def turned(measured: Estimate) -> Estimate:
    """Return a difference the other way round."""
    low, high = measured["high"], measured["low"]
    ends = {"value": measured["value"], "low": low, "high": high}
    return measured | {name: None if value is None else -value for name, value in ends.items()}


def _ahead(pair: JudgedPair) -> str:
    measured = pair["differences"][SEPARATING]
    return f"{signed(measured)} ahead of {pair['second']}, the next (p {_stated(pair['p_corrected'])}, corrected)"


def _stated(p: float | None) -> str:
    shown = p_value(p)
    return shown if shown.startswith("<") else f"= {shown}"


def listed(names: Sequence[str]) -> str:
    """`a`, `a or b`, `a, b or c`."""
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
