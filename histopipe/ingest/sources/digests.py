"""A cache for the SHA-256 of an archive.

Like DVC, it assumes that a file with the same size, modification time and inode hasn't changed, so that checking for
changes doesn't read gigabytes again. `fetch` does read and compare every byte.
"""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

from histopipe.core.errors import HistopipeError
from histopipe.core.files import file_digest, read_json, write_json

SETTLED_SECONDS = 2.0  # a file modified more recently may change again within one tick of the file system's clock


def compute_archive_digest(path: Path, cache: Path) -> str:
    """Return the SHA-256 of an archive, from the cache if the file hasn't changed.

    Args:
        path: path of the archive.
        cache: file with the cached digest.

    Raises:
        OSError: the archive can't be read.
    """
    state = _read_file_state(path)
    if (entry := _read_cache(cache)) and entry == _make_cache_entry(state, str(entry.get("sha256"))):
        return str(entry["sha256"])
    digest = file_digest(path)
    if _read_file_state(path) == state and time.time() - path.stat().st_mtime > SETTLED_SECONDS:
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_json(cache, _make_cache_entry(state, digest))
    return digest


def _make_cache_entry(state: list[int | str], digest: str) -> dict[str, object]:
    """Return the content of the cache with a checksum; a damaged entry would make every fetch refuse the archive."""
    check = hashlib.sha256(json.dumps([state, digest]).encode()).hexdigest()[:16]
    return {"looks": state, "sha256": digest, "check": check}


def _read_file_state(path: Path) -> list[int | str]:
    status = path.stat()
    return [str(path.absolute()), status.st_size, status.st_mtime_ns, status.st_ino]


def _read_cache(cache: Path) -> dict[str, object] | None:
    try:
        return dict(read_json(cache))
    except (HistopipeError, TypeError, ValueError):  # missing or damaged: the archive is read again
        return None
