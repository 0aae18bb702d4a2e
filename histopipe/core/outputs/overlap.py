"""Comparison of locations: whether one path leads to or into another through links, mounts, `..` or letter case."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path

Identity = tuple[int, int]  # device and inode: the same by whatever name a folder is reached


@dataclass(frozen=True)
class Location:
    """The location that a path leads to.

    Attributes:
        existing: identities of the nearest existing part of the path, and of every folder above it.
        missing: names of the parts that don't exist yet, in the form in which a case-insensitive disk compares them.
    """

    existing: tuple[Identity, ...]
    missing: tuple[str, ...]

    @classmethod
    def from_path(cls, path: Path) -> Location:
        """Look up the location that `path` leads to, links followed.

        Raises:
            OSError: symbolic links form a loop, or a parent folder can't be entered.
        """
        real = Path(os.path.realpath(path))
        parts = (real, *real.parents)
        depth = next(number for number, part in enumerate(parts) if os.path.lexists(part))
        existing = tuple(_identity(part) for part in parts[depth:])
        return cls(existing, tuple(_folded(part.name) for part in reversed(parts[:depth])))

    def holds(self, other: Location) -> bool:
        """Return whether `other` is this location or is inside of it."""
        if not self.missing:
            return self.existing[0] in other.existing
        same = self.existing[0] == other.existing[0]
        return same and other.missing[: len(self.missing)] == self.missing


def _identity(path: Path) -> Identity:
    status = path.stat()
    return status.st_dev, status.st_ino


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def find_crossing(folder: Path, target: Location) -> Path | None:
    """Return the first link or mount in `folder`, at any depth, that leads to, into or out of `target`."""
    for path in _crossings(folder, {inode for _, inode in target.existing}):
        try:
            location = Location.from_path(path)
        except OSError:  # a link in a circle, or gone by now
            continue
        if location.holds(target) or target.holds(location):
            return path
    return None


def _crossings(folder: Path, inodes: Set[int]) -> Iterator[Path]:
    """Yield links in a folder at any depth, mounts in it, and folders that have one of the inodes.

    Links to folders are followed, as readers follow them.
    """
    mounts, pending, seen = mount_points(), [os.path.realpath(folder)], set[str]()
    while pending:
        top = pending.pop()
        if top in seen:
            continue
        seen.add(top)
        try:
            with os.scandir(top) as entries:
                for entry in entries:
                    if entry.is_symlink():
                        yield Path(entry.path)
                        if entry.is_dir():
                            pending.append(os.path.realpath(entry.path))
                    elif entry.is_dir():
                        if entry.path in mounts or entry.inode() in inodes:  # mounted elsewhere, maybe
                            yield Path(entry.path)
                        pending.append(entry.path)
        except OSError:  # the command can't read this folder either
            continue


def is_mount(path: Path) -> bool:
    """Return whether something is mounted at `path`, including a folder of the same disk (unlike `os.path.ismount`)."""
    return path.is_mount() or os.path.realpath(path) in mount_points()


def mount_points() -> frozenset[str]:
    """Return the mount points that this process sees, on Linux; empty on other systems."""
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return frozenset()
    points = (line.split(b" ")[4] for line in lines if line.count(b" ") > 4)
    return frozenset(os.fsdecode(point.decode("unicode_escape").encode("latin-1")) for point in points)
