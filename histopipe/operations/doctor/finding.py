"""The result of a check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """The result of a check: one line of the table.

    Attributes:
        subject: what was checked.
        observation: what was observed, in a few words.
        state: `error` if it stops a run, `warning` if it may cause surprises.
        remedy: what to do about it; empty if nothing needs to be done.
    """

    subject: str
    observation: str
    state: State = "ok"
    remedy: str = ""
