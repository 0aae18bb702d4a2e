"""The SHA-256 of an archive, read through once for as long as the file looks the same.

As DVC does, a file of the same size, time of change and inode is taken for the same one: gigabytes need not be read
again whenever somebody asks whether anything is new. `fetch` reads and compares every byte that it brings.
"""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

from histopipe.core.errors import HistopipeError
from histopipe.core.files import file_digest, read_json, write_json

SETTLED_SECONDS = 2.0  # a file changed later than that may change again within one tick of the file system's clock


def archive_digest(path: Path, memory: Path) -> str:
    """The digest of the file at `path`; `memory` is where it is remembered.

    Raises:
        OSError: it can't be read.
    """
    looks = _looks(path)
    if (known := _remembered(memory)) and known == _memory(looks, str(known.get("sha256"))):
        return str(known["sha256"])
    digest = file_digest(path)
    if _looks(path) == looks and time.time() - path.stat().st_mtime > SETTLED_SECONDS:
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_json(memory, _memory(looks, digest))
    return digest


def _memory(looks: list[int | str], digest: str) -> dict[str, object]:
    """What is remembered, with a checksum of its own: a damaged one would refuse the archive at every try."""
    check = hashlib.sha256(json.dumps([looks, digest]).encode()).hexdigest()[:16]
    return {"looks": looks, "sha256": digest, "check": check}


def _looks(path: Path) -> list[int | str]:
    found = path.stat()
    return [str(path.absolute()), found.st_size, found.st_mtime_ns, found.st_ino]


def _remembered(memory: Path) -> dict[str, object] | None:
    try:
        return dict(read_json(memory))
    except (HistopipeError, TypeError, ValueError):  # absent or damaged: the file is read again
        return None
