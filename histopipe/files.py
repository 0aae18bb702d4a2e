"""Reading files, and writing files and folders so that a kill never leaves a half-written one in their place."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from histopipe.errors import HistopipeError

if TYPE_CHECKING:
    import pandas as pd

_DRAWN = r"(?:-[0-9a-f]{8})?"  # what a file's name while it is written has after the process id

ABANDONED_SECONDS = 3600.0  # a file being written changes far more often; process ids are used again


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; it takes the place of `path` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep_files(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")  # threads may write the same
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`; it takes the place of `path` when the block ends well.

    One process at a time may replace a folder: what others left beside it is taken for the remains of killed ones.
    The old folder is there until the new one is complete; after a kill in the moment between, the next start
    brings it back.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _restore_folder(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    beside.mkdir()
    try:
        yield beside
        _exchange(beside, path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _exchange(new: Path, path: Path) -> None:
    """Two renames rather than a deletion and one: a kill at any moment leaves one whole version."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.old")
    if os.path.lexists(path):
        path.rename(aside)
    try:
        new.rename(path)
    except BaseException:
        if os.path.lexists(aside):
            aside.rename(path)
        raise
    _remove(aside)


def _restore_folder(path: Path) -> None:
    """Delete what killed runs left half-written; bring back an old version whose successor never came."""
    for _, left_over in _left_over(path, "part"):
        _remove(left_over)
    for _, left_over in _left_over(path, "old"):
        if os.path.lexists(path):
            _remove(left_over)
        else:
            left_over.rename(path)


def _remove(path: Path) -> None:
    """Delete a folder, or the link or file that a user put in its place; what can't be deleted stays for later."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _sweep_files(path: Path) -> None:
    """Delete what killed runs left of `path`; a live process may be writing its own version right now."""
    for pid, left_over in _left_over(path, "part"):
        with suppress(OSError):  # gone by now, or another user's
            if not _runs(pid) or time.time() - left_over.stat().st_mtime > ABANDONED_SECONDS:
                left_over.unlink()


def _left_over(path: Path, ending: str) -> list[tuple[int, Path]]:
    """Process ids and paths of what was written beside `path`, in no order."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.(\d+){_DRAWN}\.{ending}")
    matches = ((pattern.fullmatch(entry.name), entry) for entry in path.parent.iterdir())
    return [(int(match[1]), entry) for match, entry in matches if match]


def left_over_name(name: str) -> tuple[str, int, str] | None:
    """Of a name that a file or folder has while it is written: the name it is to have, process id, `part` or `old`."""
    match = re.fullmatch(rf"\.(?P<name>.+)\.(?P<pid>\d+){_DRAWN}\.(?P<ending>part|old)", name)
    return (match["name"], int(match["pid"]), match["ending"]) if match else None


def is_abandoned(path: Path) -> bool:
    """Whether nobody goes on writing what has such a name: its process is gone, or it hasn't changed for an hour."""
    parts = left_over_name(path.name)
    with suppress(OSError):
        return parts is not None and (not _runs(parts[1]) or time.time() - path.lstat().st_mtime > ABANDONED_SECONDS)
    return False  # gone by now


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # asks, sends nothing
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    with replaced_file(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write `content` as readable JSON with a fixed key order as given, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file that an earlier stage wrote.

    Raises:
        HistopipeError: the file is missing or isn't JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise HistopipeError(f"{path} is missing: run the stage that writes it (`dvc repro`)") from None
    except ValueError as problem:
        raise HistopipeError(f"{path} is not valid JSON ({problem}): run `dvc checkout {path}`") from None


def read_yaml(path: Path) -> Any:
    """The content of a YAML file, by libyaml where PyYAML has it: `dvc.lock` soon has a thousand lines.

    Raises:
        OSError: the file can't be read.
        yaml.YAMLError, UnicodeDecodeError: it isn't YAML.
    """
    return parse_yaml(path.read_text(encoding="utf-8"))


def parse_yaml(text: str) -> Any:
    """The content of a YAML text.

    Raises:
        yaml.YAMLError: it isn't YAML.
    """
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_md5(path: Path) -> str:
    """MD5 of a file's bytes, by which DVC names it, as hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def require_disk(folder: Path, needed: int, what: str) -> None:
    """Check that the disk holding `folder` has `needed` bytes free.

    Raises:
        HistopipeError: it has not; the message says how much is missing.
    """
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise HistopipeError(
            f"{what} needs {as_size(needed)} in {folder}, but only {as_size(free)} are free there: make room"
        )


def as_size(count: float) -> str:
    """Bytes as people write them: `2.1 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def read_named(path: Path) -> pd.DataFrame:
    """A CSV table of cases or subgroups, whose names are read as they stand: one may be called `NA` or `007`."""
    import pandas as pd

    names = dict.fromkeys(("case_id", "group", "level"), str)
    return pd.read_csv(path, dtype=names, keep_default_na=False, na_values=[""])
