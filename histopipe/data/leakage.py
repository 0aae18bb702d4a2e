"""Whether a model has seen the cases it is graded on: yes, no, or nobody knows.

Weights from a file may come from a training on any cases. As long as nothing tells which, the scores of what starts
from them may measure memory, and count neither as honest nor as leaky.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

UNKNOWN: Literal["unknown"] = "unknown"
Leaky = bool | Literal["unknown"]

WHY_UNKNOWN = "nobody knows which cases the weights it started from were trained on"
LEAKY_NOTE = "The split puts patches of one case into training and test: these numbers measure memory."
UNKNOWN_NOTE = "Started from weights of which nobody knows the training cases: these numbers may measure memory."


def leaky_state(recorded: Any) -> Leaky:
    """Read what a record or a tag says; one that says nothing is taken for clean.

    Args:
        recorded: a truth value, `true`, `false`, `unknown` or None.
    """
    if recorded == UNKNOWN:
        return UNKNOWN
    return recorded is True or recorded == "true"


def worst(recorded: Iterable[Any]) -> Leaky:
    """The worst of several: one leak is a leak, and without any one unknown is unknown."""
    states = [leaky_state(each) for each in recorded]
    return True if True in states else UNKNOWN if UNKNOWN in states else False


def leaky_tags(state: Leaky) -> dict[str, str]:
    """The tag `leaky` of an MLflow run: `true` or `unknown`; none where the run is clean."""
    return {"leaky": str(state).lower()} if state else {}


def leaky_mark(recorded: Any) -> str:
    """The sign beside a model's name: `!` where its numbers measure memory, `?` where they may."""
    state = leaky_state(recorded)
    return "?" if state == UNKNOWN else "!" if state else ""
