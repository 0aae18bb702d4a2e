"""Reading files, and writing files and folders so that a kill never leaves a half-written one in their place."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from histopipe.core.errors import HistopipeError

if TYPE_CHECKING:
    import pandas as pd

ABANDONED_SECONDS = 3600.0  # a file being written changes far more often; process ids are used again

_TEMPORARY = re.compile(
    r"\.(?P<name>.+)\.(?P<pid>\d+)-(?P<machine>[0-9a-f]{4})[0-9a-f]{8}\.histopipe\.(?P<ending>part|old)", re.DOTALL
)


@contextmanager
def replaced_file(path: Path, check: Callable[[], object] = lambda: None) -> Iterator[Path]:
    """Yield a path beside `path` to write to; it takes the place of `path` when the block ends well.

    Args:
        path: of the file.
        check: raises where something lies at `path` by then that must not be deleted.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path)
    with writing(path) as beside:
        yield beside
        check()
        beside.replace(path)


@contextmanager
def replaced_folder(path: Path, check: Callable[[Path], object] = lambda folder: None) -> Iterator[Path]:
    """Yield an empty folder beside `path`; it takes the place of `path` when the block ends well.

    The old folder is there until the new one is complete; after a kill in the moment between, the next start
    brings it back.

    Args:
        path: of the folder.
        check: raises where a folder holds what must not be deleted. The old folder is checked before anything is
            done and again once it has been put aside: if someone has put a file there meanwhile, it goes back.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    restore(path, check)
    if os.path.lexists(path):
        check(path)
    with writing(path) as beside:
        beside.mkdir()
        yield beside
        exchange(beside, path, check)


def exchange(new: Path, path: Path, check: Callable[[Path], object]) -> None:
    """Put a folder in another's place: two renames, so that a kill at any moment leaves one whole version.

    Raises:
        HistopipeError: of `check`; everything is as it was.
    """
    _discard(_exchange(new, path, check))


def _exchange(new: Path, path: Path, check: Callable[[Path], object]) -> Path:
    """Rename both folders; returns where the old one, if there was any, lies now."""
    aside = temporary(path, "old")
    if os.path.lexists(path):
        path.rename(aside)
    try:
        if os.path.lexists(aside):
            check(aside)  # not before: nobody finds it by its name any more
        new.rename(path)
    except BaseException:
        if os.path.lexists(aside):
            aside.rename(path)
        raise
    return aside


def restore(path: Path, check: Callable[[Path], object] = lambda folder: None) -> None:
    """Delete what killed runs left half-written; bring back an old version whose successor never came."""
    sweep(path)
    for _, left_over in _left_over(path, "old"):
        if not os.path.lexists(path):
            left_over.rename(path)
        else:
            with suppress(HistopipeError):  # somebody's file is in it: it stays where it is
                check(left_over)
                _discard(left_over)


def sweep(path: Path) -> None:
    """Delete what killed runs left of `path`; a live process may be writing its own version right now."""
    for pid, left_over in _left_over(path, "part"):
        if is_abandoned(left_over) or (pid == os.getpid() and left_over not in _WRITING):
            _remove(left_over)


def _discard(aside: Path) -> None:
    """Delete an old version. Its name says first that it isn't wanted back, whenever the deletion ends."""
    if os.path.lexists(aside):
        unwanted = temporary(aside.with_name(_target(aside)), "part")
        with suppress(OSError):
            aside.rename(unwanted)
            _remove(unwanted)


def _remove(path: Path) -> None:
    """Delete a folder, or the link or file that a user put in its place; what can't be deleted stays for later."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


_WRITING: set[Path] = set()  # by this process; those of others are told by their process ids


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Yield a name beside `path` that nobody else uses; what has it afterwards is deleted."""
    beside = temporary(path, "part")
    _WRITING.add(beside)
    try:
        yield beside
    finally:
        _remove(beside)
        _WRITING.discard(beside)


def temporary(path: Path, ending: Literal["part", "old"], pid: int | None = None) -> Path:
    """A name beside `path` that says whose it is: histopipe's, of a process (this one by default) of this machine."""
    owner = f"{os.getpid() if pid is None else pid}-{_machine()}{secrets.token_hex(4)}"
    return path.with_name(f".{path.name}.{owner}.histopipe.{ending}")


@cache
def _machine() -> str:
    """Tells machines and containers apart that write to one disk: elsewhere a process id is another process."""
    namespace = Path("/proc/self/ns/pid")
    inside = namespace.stat().st_ino if namespace.exists() else 0
    return hashlib.sha256(f"{socket.gethostname()} {inside}".encode()).hexdigest()[:4]


def _target(path: Path) -> str:
    parts = left_over_name(path.name)
    return parts[0] if parts else path.name


def _left_over(path: Path, ending: str) -> list[tuple[int, Path]]:
    """Process ids and paths of what was written beside `path`, in no order."""
    named = ((left_over_name(entry.name), entry) for entry in path.parent.iterdir())
    return [(parts[1], entry) for parts, entry in named if parts and (parts[0], parts[2]) == (path.name, ending)]


def left_over_name(name: str) -> tuple[str, int, str] | None:
    """Of a name that a file or folder has while it is written: the name it is to have, process id, `part` or `old`."""
    match = _TEMPORARY.fullmatch(name)
    return (match["name"], int(match["pid"]), match["ending"]) if match else None


def is_abandoned(path: Path) -> bool:
    """Whether nobody goes on writing what has such a name: its process is gone, or it hasn't changed for an hour."""
    match = _TEMPORARY.fullmatch(path.name)
    with suppress(OSError):
        if match and match["machine"] == _machine() and not _runs(int(match["pid"])):
            return True
        return match is not None and time.time() - last_change(path) > ABANDONED_SECONDS
    return False  # gone by now


def last_change(path: Path) -> float:
    """When a file, or any file in a folder, was last written to, in seconds since 1970."""
    inside = (Path(folder, name) for folder, _, files in os.walk(path) for name in files)
    return max(entry.lstat().st_mtime for entry in (path, *inside))


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
    write_text(path, as_json(content))


def as_json(content: Any) -> str:
    """The text that `write_json` writes."""
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


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
        raise HistopipeError(f"{path} is not valid JSON ({problem}): {restoring(path)}") from None


def restoring(path: Path) -> str:
    """What brings back a damaged output, for a message: DVC by itself goes by sizes and times of change."""
    return f"run `dvc checkout --force {path}`, or `histopipe doctor --mend` where DVC sees no change"


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
