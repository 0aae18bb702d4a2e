"""Read files; write files and folders so that a kill never leaves a half-written one in their place."""

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

ABANDONED_SECONDS = 3600.0  # a file that is being written changes far more often; process ids are reused

_TEMPORARY = re.compile(
    r"\.(?P<name>.+)\.(?P<pid>\d+)-(?P<machine>[0-9a-f]{4})[0-9a-f]{8}\.histopipe\.(?P<ending>part|old)", re.DOTALL
)


@contextmanager
def replaced_file(path: Path, check: Callable[[], object] = lambda: None) -> Iterator[Path]:
    """Yield a temporary path to write to; it replaces `path` when the block ends without an error.

    Args:
        path: the file to replace.
        check: raises if `path` by then has something that must not be deleted.

    Example:
        >>> with replaced_file(Path("notes.txt")) as temporary_path:
        ...     temporary_path.write_text("complete, or not there at all")
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned_versions(path)
    with reserve_temporary_path(path) as new:
        yield new
        check()
        new.replace(path)


@contextmanager
def replaced_folder(path: Path, check: Callable[[Path], object] = lambda folder: None) -> Iterator[Path]:
    """Yield an empty temporary folder; it replaces `path` when the block ends without an error.

    The old folder stays until the new one is complete; after a kill in the moment between, the next start restores it.

    Args:
        path: the folder to replace.
        check: raises if a folder holds a file that must not be deleted. The old folder is checked first, and again
            after it has been put aside: if someone has put a file there meanwhile, the old folder returns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    recover_after_kill(path, check)
    if os.path.lexists(path):
        check(path)
    with reserve_temporary_path(path) as new:
        new.mkdir()
        yield new
        swap_folders(new, path, check)


def swap_folders(new: Path, path: Path, check: Callable[[Path], object]) -> None:
    """Replace a folder by two renames, so that a kill at any moment leaves one complete version.

    Raises:
        HistopipeError: `check` failed; everything is as it was.
    """
    _discard(_exchange(new, path, check))


def _exchange(new: Path, path: Path, check: Callable[[Path], object]) -> Path:
    """Rename both folders; return the path to which the old one, if there was any, was moved."""
    aside = temporary_path(path, "old")
    if os.path.lexists(path):
        path.rename(aside)
    try:
        if os.path.lexists(aside):
            check(aside)  # not before: under its new name no other process adds files to it
        new.rename(path)
    except BaseException:
        if os.path.lexists(aside):
            aside.rename(path)
        raise
    return aside


def recover_after_kill(path: Path, check: Callable[[Path], object] = lambda folder: None) -> None:
    """Delete half-written versions that killed runs left; restore an old version whose successor was never moved in."""
    remove_abandoned_versions(path)
    for _, left_over in _left_over(path, "old"):
        if not os.path.lexists(path):
            left_over.rename(path)
        else:
            with suppress(HistopipeError):  # it holds a user's file: it stays where it is
                check(left_over)
                _discard(left_over)


def remove_abandoned_versions(path: Path) -> None:
    """Delete what killed runs left of `path`, except versions that a live process may be writing."""
    for pid, left_over in _left_over(path, "part"):
        if is_abandoned(left_over) or (pid == os.getpid() and left_over not in _WRITING):
            _remove(left_over)


def _discard(aside: Path) -> None:
    """Delete an old version.

    It is renamed first, so that it isn't restored if the deletion is interrupted.
    """
    if os.path.lexists(aside):
        unwanted = temporary_path(aside.with_name(_target(aside)), "part")
        with suppress(OSError):
            aside.rename(unwanted)
            _remove(unwanted)


def _remove(path: Path) -> None:
    """Delete a folder, or the link or file that a user put in its place; errors are ignored."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


_WRITING: set[Path] = set()  # by this process; those of others are recognised by their process ids


@contextmanager
def reserve_temporary_path(path: Path) -> Iterator[Path]:
    """Yield a unique temporary name next to `path`, and delete what is left under that name afterwards."""
    new = temporary_path(path, "part")
    _WRITING.add(new)
    try:
        yield new
    finally:
        _remove(new)
        _WRITING.discard(new)


def temporary_path(path: Path, ending: Literal["part", "old"], pid: int | None = None) -> Path:
    """Return a temporary name next to `path` that identifies its owner: histopipe, a machine and a process."""
    owner = f"{os.getpid() if pid is None else pid}-{_machine()}{secrets.token_hex(4)}"
    return path.with_name(f".{path.name}.{owner}.histopipe.{ending}")


@cache
def _machine() -> str:
    """Return a short digest that identifies this machine or container: elsewhere, a process id is another process."""
    namespace = Path("/proc/self/ns/pid")
    inside = namespace.stat().st_ino if namespace.exists() else 0
    return hashlib.sha256(f"{socket.gethostname()} {inside}".encode()).hexdigest()[:4]


def _target(path: Path) -> str:
    parts = parse_temporary_name(path.name)
    return parts[0] if parts else path.name


def _left_over(path: Path, ending: str) -> list[tuple[int, Path]]:
    """List process ids and paths of temporary versions of `path`, in no order."""
    named = ((parse_temporary_name(entry.name), entry) for entry in path.parent.iterdir())
    return [(parts[1], entry) for parts, entry in named if parts and (parts[0], parts[2]) == (path.name, ending)]


def parse_temporary_name(name: str) -> tuple[str, int, str] | None:
    """Parse a temporary name into the final name, the process id, and `part` or `old`."""
    match = _TEMPORARY.fullmatch(name)
    return (match["name"], int(match["pid"]), match["ending"]) if match else None


def is_abandoned(path: Path) -> bool:
    """Return whether a temporary file is no longer written: its process is gone, or it hasn't changed for an hour."""
    match = _TEMPORARY.fullmatch(path.name)
    with suppress(OSError):
        if match and match["machine"] == _machine() and not _runs(int(match["pid"])):
            return True
        return match is not None and time.time() - last_change(path) > ABANDONED_SECONDS
    return False  # gone by now


def last_change(path: Path) -> float:
    """Return the time of the last change to a file, or to any file in a folder, in seconds since 1970."""
    inside = (Path(folder, name) for folder, _, files in os.walk(path) for name in files)
    return max(entry.lstat().st_mtime for entry in (path, *inside))


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # only checks, sends no signal
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, completely or not at all."""
    with replaced_file(path) as new:
        new.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON with its order of keys, completely or not at all."""
    write_text(path, format_json(content))


def format_json(content: Any) -> str:
    """Return the text that `write_json` writes."""
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
        raise HistopipeError(f"{path} is not valid JSON ({problem}): {restore_command(path)}") from None


def read_record(path: Path, content_name: str, error: type[HistopipeError] = HistopipeError, remedy: str = "") -> Any:
    """Read a JSON file that holds one object.

    Args:
        path: the file.
        content_name: what it should hold, for the message, such as `metrics`.
        error: the error to raise if it holds anything else.
        remedy: what to do then; by default, the command that restores the file.

    Raises:
        HistopipeError: the file is missing, isn't JSON, or holds no object.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise error(f"{path} holds no {content_name}: {remedy or restore_command(path)}")
    return content


def restore_command(path: Path) -> str:
    """Return the command that restores a damaged output, for a message.

    It forces DVC, which otherwise compares only sizes and modification times.
    """
    return f"run `dvc checkout --force {path}`, or `histopipe doctor --mend` where DVC sees no change"


def read_yaml(path: Path) -> Any:
    """Read a YAML file, with libyaml where PyYAML has it: `dvc.lock` soon has a thousand lines.

    Raises:
        OSError: the file can't be read.
        yaml.YAMLError, UnicodeDecodeError: it isn't YAML.
    """
    return parse_yaml(path.read_text(encoding="utf-8"))


def parse_yaml(text: str) -> Any:
    """Parse a YAML text.

    Raises:
        yaml.YAMLError: it isn't YAML.
    """
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def file_digest(path: Path) -> str:
    """Compute the SHA-256 of a file's bytes, as hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_md5(path: Path) -> str:
    """Compute the MD5 of a file's bytes, by which DVC names it, as hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def require_disk(folder: Path, needed: int, purpose: str) -> None:
    """Check that the disk that holds `folder` has `needed` bytes free.

    Raises:
        HistopipeError: less is free; the message states both numbers.
    """
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise HistopipeError(
            f"{purpose} needs {format_size(needed)} in {folder}, but only {format_size(free)} are free there: make room"
        )


def format_size(count: float) -> str:
    """Format a number of bytes for people: `2.1 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def read_case_table(path: Path) -> pd.DataFrame:
    """Read a CSV table of cases or subgroups without converting names, which may be `NA` or `007`."""
    import pandas as pd

    names = dict.fromkeys(("case_id", "group", "level"), str)
    return pd.read_csv(path, dtype=names, keep_default_na=False, na_values=[""])
