"""Checks that results may be written to a place: a user's files are never overwritten.

A folder that a command wrote holds a marker, `.histopipe.json`, with the digest of every file. A folder is replaced
only if it holds all of these files, unchanged, and nothing else, and only on request (`--overwrite`). Stages' own
folders hold no marker, since DVC compares them byte by byte: there, files are recognised by their names.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from histopipe import __version__
from histopipe.core.errors import OutputError
from histopipe.core.files import (
    file_digest,
    parse_temporary_name,
    recover_after_kill,
    remove_abandoned_versions,
    reserve_temporary_path,
    swap_folders,
    write_json,
)
from histopipe.core.outputs.overlap import Location, find_crossing, is_mount
from histopipe.core.system_files import is_leftover, is_leftover_folder
from histopipe.core.workspace import Workspace

MARKER = ".histopipe.json"
LONGEST_NAME = 180  # bytes of a folder's name, of the 255 that disks allow: the temporary name is longer
OVERWRITE = "--overwrite"
_NAMED = 3  # files in the way that a message names

Reads = Mapping[str, Sequence[Path]]  # the paths that a command reads, by their name in messages

# files by which output of earlier versions, which wrote no marker, is recognised
_EARLIER = {"predict": "summary.json", "monitor": "drift.json"}
_EARLIER_FILES = {
    "predict": (
        "predictions.parquet",
        "predictions.csv",
        "cases.csv",
        "slides.csv",
        "summary.json",
        *("maps/*.png", "overlays/*", "tissue/*.jpg"),
    ),
    "monitor": ("cases.csv", "drift.json", "drift.md", "drift.png", "scores/*", "scores/maps/*.png"),
}

# folders of a checkout that stages, DVC, git and MLflow write
_RESERVED = (
    *("data/raw", "data/source", "data/splits", "data/store", "data/weights"),
    *("models", "evaluations", "reports", "studies", "searches", "mlartifacts", "mlruns", ".git", ".dvc"),
    *(".checkpoints", ".digests", ".downloads", ".failures", ".locks", ".used-sources"),
)
_RESERVED_FILES = ("mlflow.db", "optuna.db", "dvc.lock", "dvc.yaml", "params.yaml")

_ALSO_USERS = frozenset({".hidden", ".directory", "desktop.db"})  # a desktop's files, and names that people give
_IGNORE_FILES = (".gitignore", ".dvcignore", ".gitkeep")


_ELSEWHERE = "name another folder, or move it away"

_CANNOT_MOVE = frozenset({errno.EBUSY, errno.EXDEV, errno.EPERM, errno.EACCES, errno.EROFS})


@dataclass
class OutputFolder:
    """A folder that a command may write, as `claim_folder` checked it.

    Attributes:
        path: the folder's path, links followed.
        shown: the path as the user wrote it.
        command: the command that writes the folder.
        overwrite: whether earlier output of the same command may be replaced.
    """

    path: Path
    shown: Path
    command: str
    overwrite: bool
    _digests: dict[tuple[int, ...], str] = field(default_factory=dict, repr=False)

    def require_free(self) -> None:
        """Check that the folder may be written, after restoring what a killed run had put aside.

        Raises:
            OutputError: the folder may not be written.
        """
        if self.path.parent.is_dir():
            recover_after_kill(self.path, self._check_own)
        if self.path.is_dir():
            self._check(self.path)

    @contextmanager
    def written(self) -> Iterator[Path]:
        """Yield an empty folder; it gets its marker and replaces `path` when the block ends without an error.

        Raises:
            OutputError: someone has put a file into `path` meanwhile. It stays there, and the new output is kept in
                another folder, which the message names.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        target = self.path / self.path.name if self._in_place else self.path
        remove_abandoned_versions(target)
        with reserve_temporary_path(target) as new:
            new.mkdir()
            yield new
            write_json(new / MARKER, self._marker(new))
            try:
                self._put_in_place(new)
            except OutputError as problem:
                raise OutputError(f"{problem}; the new output is in {self._rescue(new)}") from None

    @property
    def _in_place(self) -> bool:
        """Return whether the folder itself has to stay: it is mounted, someone is in it, or its parent is read-only."""
        if not self.path.is_dir():
            return False
        here = Location.from_path(self.path).holds(Location.from_path(Path.cwd()))
        return here or is_mount(self.path) or not os.access(self.path.parent, os.W_OK | os.X_OK)

    def _put_in_place(self, new: Path) -> None:
        if new.parent != self.path:
            try:
                swap_folders(new, self.path, self._check)
                return
            except OSError as problem:
                if problem.errno not in _CANNOT_MOVE or not self.path.is_dir():
                    raise
        self._check(self.path)
        self._fill(new)

    def _fill(self, new: Path) -> None:
        """Move files one by one into a folder that has to stay; its marker lists both versions until all is moved."""
        marker = _read_marker(self.path) or {"files": {}}
        content = self._marker(new)
        both = {name: _listed(marker, name) + _listed(content, name) for name in (*marker["files"], *content["files"])}
        write_json(self.path / MARKER, content | {"complete": False, "files": both})
        for name in sorted((name for name, _ in _entries(self.path) if name in marker["files"]), reverse=True):
            _remove_listed(self.path / name)  # only names that are here: a forged marker may name files elsewhere
        for name in sorted(content["files"]):
            if name.endswith("/"):
                (self.path / name).mkdir(exist_ok=True)
            else:
                shutil.move(new / name, self.path / name)
        write_json(self.path / MARKER, content)

    def _rescue(self, new: Path) -> Path:
        kept = self.path.with_name(f"{self.path.name}-{new.name.rpartition('.histopipe.')[0][-8:]}")
        if new.parent == self.path:
            kept = self.path / kept.name
        new.rename(kept)
        return kept

    def _marker(self, folder: Path) -> dict[str, Any]:
        files = {name: self._digest(folder / name, status) for name, status in _entries(folder) if name != MARKER}
        return {"histopipe": __version__, "command": self.command, "complete": True, "files": files}

    def _digest(self, path: Path, status: os.stat_result) -> str:
        """Return the marker's entry for a file; folders and other things have a fixed text."""
        if stat.S_ISDIR(status.st_mode):
            return "folder"
        if not stat.S_ISREG(status.st_mode):
            return "no file"
        key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if key not in self._digests:
            self._digests[key] = file_digest(path)
        return self._digests[key]

    def _check(self, folder: Path) -> None:
        """Refuse to replace a folder that is incomplete, not this command's, or not to be overwritten."""
        if self._check_own(folder) and not self.overwrite:
            raise OutputError(
                f"{self.shown} is there already, written by `histopipe {self.command}`: name another folder, or add "
                f"{OVERWRITE}"
            )

    def _check_own(self, folder: Path) -> bool:
        """Refuse a folder that someone else wrote; return whether it is this command's complete output."""
        if folder.is_symlink() or not folder.is_dir():
            raise OutputError(f"{self.shown} has become a file or a link: name another folder")
        try:
            marker = _read_marker(folder)
            if marker is None:
                self._require_empty(folder)
                return False
            self._require_own(folder, dict(_entries(folder)), marker)
        except OSError as problem:
            raise OutputError(f"{self.shown} can't be read ({problem.strerror}): {_ELSEWHERE}") from None
        return bool(marker["complete"])

    def _require_empty(self, folder: Path) -> None:
        earlier = _EARLIER_FILES.get(self.command, ())
        names = [name for name, _ in _entries(folder) if not _matches(name, earlier)]
        if _EARLIER.get(self.command, MARKER) in (entry.name for entry in folder.iterdir()):
            file = _listing(names) or _EARLIER[self.command]
            raise OutputError(
                f"{self.shown} was written by an earlier version of histopipe, which left no list of its files, and "
                f"holds {file}: {_ELSEWHERE}"
            )
        if other := _listing(names or [name for name, _ in _entries(folder)]):
            by = f"`histopipe {self.command}`"
            raise OutputError(f"{self.shown} holds {other}, which {by} didn't write: {_ELSEWHERE}")

    def _require_own(self, folder: Path, entries: Mapping[str, os.stat_result], marker: Mapping[str, Any]) -> None:
        files, by = marker["files"], f"`histopipe {self.command}`"
        if marker["command"] != self.command:
            other = f"`histopipe {marker['command']}`"
            raise OutputError(f"{self.shown} was written by {other} ({MARKER}), not by {by}: {_ELSEWHERE}")
        if foreign := _listing([name for name in entries if name not in files and name != MARKER]):
            raise OutputError(f"{self.shown} holds {foreign}, which {by} didn't write: {_ELSEWHERE}")
        if marker["complete"] and (lacking := [name for name in files if name not in entries]):
            raise OutputError(f"{self.shown} lacks {lacking[0]}, which {by} wrote: {_ELSEWHERE}")
        for name, status in entries.items():
            if name != MARKER and self._digest(folder / name, status) not in _listed(marker, name):
                raise OutputError(f"{self.shown} holds {name}, which was changed since {by} wrote it: {_ELSEWHERE}")


def _listing(names: Sequence[str]) -> str:
    """Format the first names, preferring files to folders, and the number of the others."""
    files = [name for name in names if not name.endswith("/")] or list(names)
    more = f" and {len(files) - _NAMED} more" if len(files) > _NAMED else ""
    return ", ".join(files[:_NAMED]) + more


def _first_file(names: Sequence[str]) -> str | None:
    """Return the first file; a folder where there are only folders."""
    return next((name for name in names if not name.endswith("/")), next(iter(names), None))


def claim_folder(
    out: Path, command: str, reads: Reads, overwrite: bool = False, workspace: Workspace | None = None
) -> OutputFolder:
    """Check, before any work, that a command may write the folder `out`.

    It may if the folder is absent, empty, or was left half-filled by a killed run of the same command. With
    `overwrite`, it may also replace its own complete output.

    Args:
        out: the folder, as the user wrote it.
        command: the command of `histopipe`, such as `predict`.
        reads: all paths that the command reads.
        overwrite: whether the command's own earlier output may be replaced.
        workspace: the checkout, whose own folders are refused.

    Raises:
        OutputError: the folder may not be written; the message names the file that is in the way.

    Example:
        >>> folder = claim_folder(Path("scores/new"), "predict", {"the input": [Path("new.zip")]})
        >>> with folder.written() as new:
        ...     (new / "cases.csv").write_text("case_id,probability")
    """
    path = claim_path(out, reads, workspace)
    if os.path.lexists(path) and not path.is_dir():
        raise OutputError(f"{out} is a file: name a folder")
    folder = OutputFolder(path, out, command, overwrite)
    folder.require_free()
    return folder


def ensure_claimed(
    out: Path | OutputFolder, command: str, reads: Reads, overwrite: bool = True, workspace: Workspace | None = None
) -> OutputFolder:
    """Return `out` if it is claimed already; otherwise claim it."""
    return out if isinstance(out, OutputFolder) else claim_folder(out, command, reads, overwrite, workspace)


def claim_file(
    out: Path,
    command: str,
    reads: Reads,
    overwrite: bool = False,
    workspace: Workspace | None = None,
    is_own: Callable[[Path], bool] = lambda path: False,
) -> Path:
    """Check, before any work, that a command may write the file `out`; return its path, links followed.

    Args:
        out: the file, as the user wrote it.
        command: the command of `histopipe`, such as `synth`.
        reads: all paths that the command reads.
        overwrite: whether the command's own earlier output may be replaced.
        workspace: the checkout, whose own folders are refused.
        is_own: a function that returns whether a file was written by this command and is unchanged since.

    Raises:
        OutputError: the file may not be written.
    """
    path = claim_path(out, reads, workspace)
    if path.is_dir():
        raise OutputError(f"{out} is a folder: name a file")
    if os.path.lexists(path):
        if not path.is_file() or not is_own(path):
            raise OutputError(f"{out} is there already, and `histopipe {command}` didn't write it: name another file")
        if not overwrite:
            raise OutputError(
                f"{out} is there already, written by `histopipe {command}`: name another file, or add {OVERWRITE}"
            )
    return path


def claim_path(out: Path, reads: Reads, workspace: Workspace | None = None) -> Path:
    """Check, before any work, that a path may be written, whatever is there now; links are followed.

    Args:
        out: the file or folder, as the user wrote it.
        reads: all paths that the command reads.
        workspace: the checkout, whose own folders are refused.

    Raises:
        OutputError: the path may not be written.
    """
    try:
        path = _resolved(out)
        _require_apart(out, path, reads)
        _require_unreserved(out, path, workspace)
        _require_writable(out, path)
    except OSError as problem:  # a name that no disk takes, a folder above that can't be entered
        raise OutputError(f"{out} can't be looked up ({problem.strerror}): correct the path") from None
    return path


@dataclass(frozen=True)
class OutputFiles:
    """Files that a command writes into a folder among other files, listed by a register in the same folder.

    Attributes:
        folder: the folder of the files.
        command: the command that writes them.
        register: the name of the file that lists them, under its key `written`.
        overwrite: whether earlier files of the command may be replaced.
    """

    folder: Path
    command: str
    register: str
    overwrite: bool

    def require_free(self, names: Sequence[str], sealed: Sequence[str] = ()) -> None:
        """Check that files of these names may be written.

        Args:
            names: names of new files.
            sealed: names of texts that state their author (`seal_text`), and are replaced without `overwrite`.

        Raises:
            OutputError: a file exists that another program wrote, that has changed since, or that may not be replaced.
        """
        listed = self._read()["written"]
        for path in (self.folder / name for name in sealed):
            if os.path.lexists(path) and not _is_sealed(path, self.command):
                raise self._foreign(path)
        for name in names:
            path = self.folder / name
            if not os.path.lexists(path):
                continue
            if not path.is_file() or path.is_symlink() or file_digest(path) not in _listed(listed, name):
                raise self._foreign(path)
            if not (self.overwrite or name in listed["unfinished"]):
                by = f"`histopipe {self.command}`"
                raise OutputError(f"{path} is there already, written by {by}: write elsewhere, or add {OVERWRITE}")

    def announce(self, digests: Mapping[str, str]) -> None:
        """List files and their digests before they are written, so that a kill leaves no unlisted file."""
        content = self._read()
        listed = content.pop("written")
        files = {name: [*_listed(listed, name), digest] for name, digest in digests.items()}
        unfinished = {*listed["unfinished"], *digests}
        self._write(content, {"files": listed["files"] | files, "unfinished": sorted(unfinished)})

    def finish(self, content: Mapping[str, Any], digests: Mapping[str, str]) -> None:
        """Write the final register, with `content`, once the files are in place."""
        listed = self._read()["written"]
        unfinished = [name for name in listed["unfinished"] if name not in digests]
        files = listed["files"] | {name: [digest] for name, digest in digests.items()}
        self._write(content, {"files": files, "unfinished": unfinished})

    def _read(self) -> dict[str, Any]:
        path = self.folder / self.register
        if not os.path.lexists(path) or (path.is_file() and not path.stat().st_size):  # empty while it is locked
            return {"written": {"files": {}, "unfinished": []}}
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            seal = content["written"].pop("seal")
            if seal == _seal(content) and content["written"]["command"] == self.command:
                return dict(content)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            pass
        raise self._foreign(path)

    def _write(self, content: Mapping[str, Any], listed: Mapping[str, Any]) -> None:
        whole = {**content, "written": {"histopipe": __version__, "command": self.command, **listed}}
        whole["written"] |= {"seal": _seal(whole)}
        write_json(self.folder / self.register, whole)

    def _foreign(self, path: Path) -> OutputError:
        by = f"`histopipe {self.command}` of this version"
        return OutputError(f"{path} is there already, and {by} didn't write it, or it was changed since: {_ELSEWHERE}")


def seal_text(text: str, command: str) -> str:
    """Return a Markdown text with a comment that names its author and reveals later changes."""
    return f"{text}\n<!-- histopipe {command} {text_digest(text)} -->\n"


def _is_sealed(path: Path, command: str) -> bool:
    try:
        text = path.read_text(encoding="utf-8") if path.is_file() and not path.is_symlink() else ""
    except (OSError, UnicodeDecodeError):
        return False
    return bool(text) and text == seal_text(text.rpartition("\n<!-- histopipe ")[0], command)


def _seal(content: object) -> str:
    return text_digest(json.dumps(content, sort_keys=True))


def text_digest(text: str) -> str:
    """Compute the SHA-256 of a text as it is written to a file, as hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _resolved(out: Path) -> Path:
    """Return the path that `out` leads to, links followed."""
    if out.parts[:1] == ("~",) and not os.path.lexists("~"):  # after `--out=` the shell doesn't expand it
        home = Path(os.environ.get("HOME", "/home/you"))
        raise OutputError(f"{out} begins with ~, which the shell didn't expand: write {home.joinpath(*out.parts[1:])}")
    path = Path(os.path.realpath(out))
    if out.is_symlink() and not path.exists():
        raise OutputError(f"{out} is a link to {path}, which doesn't exist: create that folder, or name another")
    parents = [parent for parent in path.parents if os.path.lexists(parent)]
    if parents and not parents[0].is_dir():
        raise OutputError(f"{out} can't be in {parents[0]}, which is a file: name another path")
    return path


def _require_apart(out: Path, path: Path, reads: Reads) -> None:
    """Check that the output and the inputs don't contain each other, through whatever links or mounts."""
    try:
        target = Location.from_path(path)
        for what, paths in reads.items():
            for source in paths:
                _require_apart_from(out, target, what, source)
    except OSError as problem:
        where = problem.filename or out
        raise OutputError(f"{where} can't be looked up ({problem.strerror}): correct the path") from None


def _require_apart_from(out: Path, target: Location, what: str, source: Path) -> None:
    origin = Location.from_path(source)
    if target.holds(origin):
        raise OutputError(f"{out} contains {what} ({source}), which would be replaced: write to another folder")
    if origin.holds(target):
        raise OutputError(f"{out} is in {what}, {source}, which is only read: write to another folder")
    if source.is_dir() and (link := find_crossing(source, target)):
        raise OutputError(f"{out} can be reached from {what}, {source}, through {link}: write to another folder")


def _require_unreserved(out: Path, path: Path, workspace: Workspace | None) -> None:
    """Check that `out` isn't the disk's root, a home, the checkout or one of its own folders."""
    target = Location.from_path(path)
    if path == path.parent or _holds_home(target):
        raise OutputError(f"{out} is {path}, which is not a folder for results: name one inside of it")
    roots = {workspace.root, workspace.checkout} if workspace else set()
    for root in roots:
        if target.holds(Location.from_path(root)):
            raise OutputError(f"{out} is or contains the checkout {root}: name a folder in it, such as scores/new")
        for name in (*_RESERVED, *_RESERVED_FILES):
            reserved = Location.from_path(root / name)
            if reserved.holds(target) or target.holds(reserved):
                own = name if name in _RESERVED_FILES else f"{name}/"
                raise OutputError(f"{out} belongs to the checkout's own {own}: name another folder, such as scores/new")


def _holds_home(target: Location) -> bool:
    try:
        return target.holds(Location.from_path(Path.home()))
    except (OSError, RuntimeError):  # a user without one, as in containers
        return False


def _require_writable(out: Path, path: Path) -> None:
    nearest = next(parent for parent in (path, *path.parents) if parent.is_dir())
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise OutputError(f"{out} can't be written: you have no permission to write to {nearest}")
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        raise OutputError(f"{out}: its name is longer than {LONGEST_NAME} bytes: name a shorter one")


def _entries(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the names in a folder, at any depth, except system files and temporary ones; folders end with `/`.

    Links aren't followed. Systems keep their own folders at the top of a disk, and only there.
    """
    mounted = is_mount(folder)
    pending = [""]
    while pending:
        prefix = pending.pop()
        with os.scandir(folder / prefix) as scanned:
            inside = sorted(scanned, key=lambda entry: entry.name)
        for entry in inside:
            status = entry.stat(follow_symlinks=False)
            if parse_temporary_name(entry.name) or (mounted and not prefix and is_leftover_folder(entry.name)):
                continue
            if stat.S_ISDIR(status.st_mode):
                pending.append(f"{prefix}{entry.name}/")
                yield f"{prefix}{entry.name}/", status
            elif not (stat.S_ISREG(status.st_mode) and is_system_file(entry.name)):
                yield prefix + entry.name, status


def find_foreign_file(folder: Path, patterns: Sequence[str]) -> Path | None:
    """Return a file in a folder, at any depth, that matches none of the patterns; the path itself if it is a file.

    System files don't count, nor do those that list what git and DVC ignore.

    Raises:
        OutputError: the folder can't be read.
    """
    if not folder.is_dir():
        return folder
    try:
        names = [name for name, _ in _entries(folder) if not _matches(name, (*patterns, *_IGNORE_FILES))]
    except OSError as problem:
        raise OutputError(f"{folder} can't be read ({problem.strerror}): give yourself permission to read it") from None
    file = _first_file(names)
    return None if file is None else folder / file


def remove_own_folder(folder: Path, patterns: Sequence[str]) -> None:
    """Delete a folder, unless a file in it matches none of the patterns: then it is a user's, and all stays.

    Raises:
        OutputError: the folder can't be read.
    """
    if folder.is_dir() and find_foreign_file(folder, patterns) is None:
        shutil.rmtree(folder, ignore_errors=True)


def is_system_file(name: str) -> bool:
    """Return whether operating systems leave a file of this name in folders, without content of the user's."""
    return is_leftover(name) and name not in _ALSO_USERS


def _read_marker(folder: Path) -> dict[str, Any] | None:
    """Read the marker of a folder; None if there is none or it can't be read."""
    path = folder / MARKER
    try:
        marker = json.loads(path.read_text(encoding="utf-8")) if path.is_file() and not path.is_symlink() else None
    except (OSError, ValueError, RecursionError):
        return None
    types = {"command": str, "complete": bool, "files": dict}
    if not isinstance(marker, dict) or any(not isinstance(marker.get(name), kind) for name, kind in types.items()):
        return None
    return marker


def _listed(marker: Mapping[str, Any], name: str) -> list[str]:
    """Return the digests that a file may have."""
    digests = marker["files"].get(name, [])
    return digests if isinstance(digests, list) else [digests]


def _remove_listed(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        with suppress(OSError):  # someone put a file into it: it stays
            for entry in path.iterdir():
                if is_system_file(entry.name):
                    entry.unlink()
            path.rmdir()
    else:
        path.unlink(missing_ok=True)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    """Return whether a name matches a pattern, or is a folder of one; `*` matches no `/`."""
    parts, folder = name.rstrip("/").split("/"), name.endswith("/")
    for pattern in patterns:
        steps = pattern.split("/")
        fits = len(parts) < len(steps) if folder else len(parts) == len(steps)
        if fits and all(map(fnmatchcase, parts, steps)):
            return True
    return False
