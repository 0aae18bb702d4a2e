"""The SHA-256 of an archive, read through once for as long as the file looks the same.

As DVC does, a file of the same size, time of change and inode is taken for the same one: gigabytes need not be read
again whenever somebody asks whether anything is new. `fetch` reads and compares every byte that it brings.
"""

from __future__ import annotations

import time
from pathlib import Path

from histopipe.errors import HistopipeError
from histopipe.files import file_digest, read_json, write_json

SETTLED_SECONDS = 2.0  # a file changed later than that may change again within one tick of the file system's clock


def archive_digest(path: Path, memory: Path) -> str:
    """The digest of the file at `path`; `memory` is where it is remembered.

    Raises:
        OSError: it can't be read.
    """
    looks = _looks(path)
    if (known := _remembered(memory)) and known.get("looks") == looks:
        return str(known["sha256"])
    digest = file_digest(path)
    if _looks(path) == looks and time.time() - path.stat().st_mtime > SETTLED_SECONDS:
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_json(memory, {"looks": looks, "sha256": digest})
    return digest


def _looks(path: Path) -> list[int | str]:
    found = path.stat()
    return [str(path.absolute()), found.st_size, found.st_mtime_ns, found.st_ino]


def _remembered(memory: Path) -> dict[str, object] | None:
    try:
        return dict(read_json(memory))
    except (HistopipeError, TypeError, ValueError):  # absent or damaged: the file is read again
        return None
