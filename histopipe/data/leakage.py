"""Leaks: whether a model has seen the cases it is evaluated on (yes, no, or unknown).

Weights from a file may come from a training on any cases. As long as these are unknown, the metrics of a model that
starts from such weights may measure memory, and count neither as clean nor as leaky.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

UNKNOWN: Literal["unknown"] = "unknown"
Leaky = bool | Literal["unknown"]

WHY_UNKNOWN = "it is unknown which cases the weights it started from were trained on"
LEAKY_NOTE = "The split puts patches of one case into training and test: these numbers measure memory."
UNKNOWN_NOTE = "Started from weights whose training cases are unknown: these numbers may measure memory."


def leaky_state(recorded: Any) -> Leaky:
    """Parse the leak state of a record or a tag; a missing one counts as clean.

    Args:
        recorded: a truth value, `true`, `false`, `unknown` or None.

    Example:
        >>> leaky_state("true"), leaky_state("unknown"), leaky_state(None)
        (True, 'unknown', False)
    """
    if recorded == UNKNOWN:
        return UNKNOWN
    return recorded is True or recorded == "true"


def worst_state(recorded: Iterable[Any]) -> Leaky:
    """Return the worst of several states: any leak is a leak; otherwise any unknown state is unknown."""
    states = [leaky_state(state) for state in recorded]
    return True if True in states else UNKNOWN if UNKNOWN in states else False


def leaky_tags(state: Leaky) -> dict[str, str]:
    """Return the tag `leaky` of an MLflow run: `true` or `unknown`; none where the run is clean."""
    return {"leaky": str(state).lower()} if state else {}


def leaky_mark(recorded: Any) -> str:
    """Return the sign after a model's name: `!` where its numbers measure memory, `?` where they may."""
    state = leaky_state(recorded)
    return "?" if state == UNKNOWN else "!" if state else ""
