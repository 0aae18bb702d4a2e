"""What a comparison says, in a sentence or two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from histopipe.comparison.evaluations import Row
from histopipe.comparison.pairs import SEPARATING
from histopipe.comparison.table import p_value, signed
from histopipe.evaluation.figures import with_interval


def answer(content: dict[str, Any]) -> str:
    """Which model is best and by how much, or from which others it can't be told.

    Args:
        content: of `comparison.json`.
    """
    best = content["ranking"][0]
    name, reached = best["architecture"], with_interval(best["test"][SEPARATING])
    where = f"on {best['cases']:,} test cases"
    against = [pair for pair in content["pairs"] if pair["first"] == name]
    if not against:
        return f"{name} reaches a ROC AUC of {reached} {where}; there is no other model to compare it with."
    close = [pair for pair in against if not pair["separable"]]
    if close:
        others = listed([pair["second"] for pair in close])
        return f"Not separable: {name} has the highest ROC AUC, {reached} {where}, but can't be told from {others}."
    return f"{name} is best, with a ROC AUC of {reached} {where}: {_ahead(against[0])}."


def _ahead(pair: Row) -> str:
    measured = pair["differences"][SEPARATING]
    return f"{signed(measured)} ahead of {pair['second']}, the next (p {_stated(pair['p_corrected'])}, corrected)"


def _stated(p: float) -> str:
    shown = p_value(p)
    return shown if shown.startswith("<") else f"= {shown}"


def listed(names: Sequence[str]) -> str:
    """`a`, `a or b`, `a, b or c`."""
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
