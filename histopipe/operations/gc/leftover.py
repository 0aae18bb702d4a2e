"""What runs left behind, and the age below which nothing counts as garbage."""

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
    """Leftovers of one kind: one line of the table.

    Attributes:
        kind: what they are, such as `DVC cache`.
        reason: why they aren't needed, why they are kept, or why that is unknown.
        count: the number of objects, runs or files.
        size: bytes that their removal frees; None if unknown.
        removal: removes them, and continues a removal that was killed; None if they are kept.
        at_once: whether the removal frees the space; if it only marks them as deleted, a later gc does.
        state: `garbage`, `removed`, `kept` (others may need them), or `unknown` (they can't be examined or removed).
    """

    kind: str
    reason: str
    count: int = 0
    size: int | None = 0
    removal: Callable[[], None] | None = None
    state: State = "garbage"
    at_once: bool = True


@dataclass(frozen=True)
class Age:
    """The least age of garbage.

    Attributes:
        seconds: the time since its last change.
        written: the age as the user wrote it, such as `7d`.
    """

    seconds: float
    written: str

    @classmethod
    def parse(cls, written: str) -> Age:
        """Read `7d`, `12h`, `2w`, `30m`, `90s`, or 0.

        Raises:
            HistopipeError: the text isn't of this form.
        """
        match = _AGE.fullmatch("0s" if written == "0" else written)
        if match is None:
            raise HistopipeError(f"--older-than {written}: write a number and s, m, h, d or w, such as 7d, 12h or 0d")
        return cls(float(match["number"]) * _SECONDS[match["unit"]], written)

    @property
    def before(self) -> float:
        """The latest time of the last change, in seconds since 1970."""
        return time.time() - self.seconds

    def passed(self, path: Path) -> bool:
        """Return whether a file, or everything in a folder, hasn't changed for at least this age."""
        return all(entry.lstat().st_mtime <= self.before for entry in (path, *_within(path)) if os.path.lexists(entry))


def room(paths: Iterable[Path]) -> int:
    """Compute the bytes that deleting files and folders frees; files with a second hard link free nothing."""
    stats = [entry.lstat() for path in paths for entry in (path, *_within(path)) if os.path.lexists(entry)]
    return sum(stat.st_size for stat in stats if stat.st_nlink == 1)


def _within(folder: Path) -> list[Path]:
    if folder.is_symlink() or not folder.is_dir():
        return []
    return [Path(inner) / name for inner, _, names in os.walk(folder) for name in names]
