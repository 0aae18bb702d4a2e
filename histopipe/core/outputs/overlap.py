"""Whether two paths lead to the same place, or one into the other: through links, mounts, `..` or letters' case."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path

Identity = tuple[int, int]  # device and inode: the same by whatever name a folder is reached


@dataclass(frozen=True)
class Location:
    """Where a path leads.

    Attributes:
        existing: identities of the nearest part of it that exists, and of every folder above that.
        missing: names of the parts that don't exist yet, as a disk that knows no case would compare them.
    """

    existing: tuple[Identity, ...]
    missing: tuple[str, ...]

    @classmethod
    def of(cls, path: Path) -> Location:
        """Look up where `path` leads, links followed.

        Raises:
            OSError: links lead in circles, or a folder above it can't be entered.
        """
        real = Path(os.path.realpath(path))
        parts = (real, *real.parents)
        depth = next(number for number, part in enumerate(parts) if os.path.lexists(part))
        existing = tuple(_identity(part) for part in parts[depth:])
        return cls(existing, tuple(_folded(part.name) for part in reversed(parts[:depth])))

    def holds(self, other: Location) -> bool:
        """Whether `other` is this place or lies in it."""
        if not self.missing:
            return self.existing[0] in other.existing
        same = self.existing[0] == other.existing[0]
        return same and other.missing[: len(self.missing)] == self.missing


def _identity(path: Path) -> Identity:
    status = path.stat()
    return status.st_dev, status.st_ino


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def leads_from(folder: Path, target: Location) -> Path | None:
    """The first link or mount in `folder`, at any depth, through which `target` can be reached, or that lies in it."""
    for path in _crossings(folder, {inode for _, inode in target.existing}):
        try:
            place = Location.of(path)
        except OSError:  # a link in a circle, or gone by now
            continue
        if place.holds(target) or target.holds(place):
            return path
    return None


def _crossings(folder: Path, inodes: Set[int]) -> Iterator[Path]:
    """Links in a folder and in those below it, what is mounted there, and folders that have one of the inodes.

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
        except OSError:  # what can't be looked through isn't read either
            continue


def is_mount(path: Path) -> bool:
    """Whether something is mounted at `path`, a folder of the same disk included, which `os.path.ismount` misses."""
    return path.is_mount() or os.path.realpath(path) in mount_points()


def mount_points() -> frozenset[str]:
    """Where this process sees something mounted, as Linux tells; nothing on other systems."""
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return frozenset()
    points = (line.split(b" ")[4] for line in lines if line.count(b" ") > 4)
    return frozenset(os.fsdecode(point.decode("unicode_escape").encode("latin-1")) for point in points)
