"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One line of the table.

    Attributes:
        what: was looked at.
        said: what was found, in a few words.
        state: `error` for what stops a run, `warning` for what may surprise.
        remedy: what to do about it; empty where nothing needs to be done.
    """

    what: str
    said: str
    state: State = "ok"
    remedy: str = ""
