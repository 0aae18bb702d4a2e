"""What a search for garbage found, and the age below which nothing counts as such."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from histopipe.core.errors import HistopipeError

State = Literal["garbage", "removed", "kept", "unknown"]

_AGE = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<unit>[smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


@dataclass(frozen=True)
class Leftover:
    """One line of the table.

    Attributes:
        what: is there.
        why: nothing needs it; or why it stays, or can't be told.
        count: of objects, runs or files.
        size: bytes that its removal gives back; None where that can't be told.
        removal: removes it, and goes on with what a killed removal left; None for what stays.
        at_once: whether removal gives the room back; a later gc does, where it only marks as deleted.
        state: `garbage`, `removed`, `kept` (somebody else may need it), or `unknown` (something can't be asked, or
            can't be removed).
    """

    what: str
    why: str
    count: int = 0
    size: int | None = 0
    removal: Callable[[], None] | None = None
    state: State = "garbage"
    at_once: bool = True


@dataclass(frozen=True)
class Age:
    """How old garbage must be.

    Attributes:
        seconds: since its last change.
        written: as the user wrote it, such as `7d`.
    """

    seconds: float
    written: str

    @classmethod
    def parse(cls, written: str) -> Age:
        """Read `7d`, `12h`, `2w`, `30m`, `90s`, or 0.

        Raises:
            HistopipeError: it is none of these.
        """
        match = _AGE.fullmatch("0s" if written == "0" else written)
        if match is None:
            raise HistopipeError(f"--older-than {written}: write a number and s, m, h, d or w, such as 7d, 12h or 0d")
        return cls(float(match["number"]) * _SECONDS[match["unit"]], written)

    @property
    def before(self) -> float:
        """The time before which something must have changed last, in seconds since 1970."""
        return time.time() - self.seconds

    def passed(self, path: Path) -> bool:
        """Whether a file, or everything within a folder, hasn't changed for so long."""
        return all(entry.lstat().st_mtime <= self.before for entry in (path, *_within(path)) if os.path.lexists(entry))


def room(paths: Iterable[Path]) -> int:
    """Bytes that deleting files and folders gives back; what has a second name elsewhere gives nothing."""
    stats = [entry.lstat() for path in paths for entry in (path, *_within(path)) if os.path.lexists(entry)]
    return sum(stat.st_size for stat in stats if stat.st_nlink == 1)


def _within(folder: Path) -> list[Path]:
    if folder.is_symlink() or not folder.is_dir():
        return []
    return [Path(place) / name for place, _, names in os.walk(folder) for name in names]
