"""Where results may be written: never over what a user has.

A folder that a command wrote holds a marker, `.histopipe.json`, with the digest of every file. Only a folder in which
all of these lie unchanged, and nothing else, is replaced, and only on request (`--overwrite`). Stages' own folders
hold no marker, since DVC compares them byte by byte: there, files are told by their names.
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
from histopipe.core.files import exchange, file_digest, left_over_name, restore, sweep, write_json, writing
from histopipe.core.outputs.overlap import Location, is_mount, leads_from
from histopipe.core.system_files import is_leftover, is_leftover_folder
from histopipe.core.workspace import Workspace

MARKER = ".histopipe.json"
LONGEST_NAME = 180  # bytes of a folder's name, of the 255 that disks allow: it gets longer while it is written
OVERWRITE = "--overwrite"
_NAMED = 3  # of the files in the way

Reads = Mapping[str, Sequence[Path]]  # what a command reads, by what messages call it

# recognised by these: what versions of histopipe that wrote no marker left
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
    """A folder that a command may write, as `claim_folder` found it.

    Attributes:
        path: of the folder, links followed.
        shown: as the user wrote it.
        command: that writes it.
        overwrite: whether what the same command wrote before may be replaced.
    """

    path: Path
    shown: Path
    command: str
    overwrite: bool
    _digests: dict[tuple[int, ...], str] = field(default_factory=dict, repr=False)

    def require_free(self) -> None:
        """Check that the folder may be written, with what a killed run had put aside back in its place.

        Raises:
            OutputError: it may not.
        """
        if self.path.parent.is_dir():
            restore(self.path, self._check_own)
        if self.path.is_dir():
            self._check(self.path)

    @contextmanager
    def written(self) -> Iterator[Path]:
        """Yield an empty folder; with its marker, it takes the place of `path` when the block ends well.

        Raises:
            OutputError: someone has put a file into `path` meanwhile. It stays there, and so does what was written,
                in a folder beside that the message names.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path / self.path.name if self._in_place else self.path
        sweep(beside)
        with writing(beside) as new:
            new.mkdir()
            yield new
            write_json(new / MARKER, self._marker(new))
            try:
                self._put_in_place(new)
            except OutputError as problem:
                raise OutputError(f"{problem}; what was written lies in {self._rescue(new)}") from None

    @property
    def _in_place(self) -> bool:
        """Whether the folder itself has to stay: it is mounted, or someone stands in it, or none may be put beside."""
        if not self.path.is_dir():
            return False
        here = Location.of(self.path).holds(Location.of(Path.cwd()))
        return here or is_mount(self.path) or not os.access(self.path.parent, os.W_OK | os.X_OK)

    def _put_in_place(self, new: Path) -> None:
        if new.parent != self.path:
            try:
                exchange(new, self.path, self._check)
                return
            except OSError as problem:
                if problem.errno not in _CANNOT_MOVE or not self.path.is_dir():
                    raise
        self._check(self.path)
        self._fill(new)

    def _fill(self, new: Path) -> None:
        """Move file by file into a folder that has to stay; its marker says first what belongs to it, for a kill."""
        marker = _read_marker(self.path) or {"files": {}}
        content = self._marker(new)
        both = {name: _listed(marker, name) + _listed(content, name) for name in (*marker["files"], *content["files"])}
        write_json(self.path / MARKER, content | {"complete": False, "files": both})
        for name in sorted((name for name, _ in _entries(self.path) if name in marker["files"]), reverse=True):
            _remove_listed(self.path / name)  # what lies here: a forged marker may name files elsewhere
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
        """What a marker holds of a file; of a folder, that it is one."""
        if stat.S_ISDIR(status.st_mode):
            return "folder"
        if not stat.S_ISREG(status.st_mode):
            return "no file"
        key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if key not in self._digests:
            self._digests[key] = file_digest(path)
        return self._digests[key]

    def _check(self, folder: Path) -> None:
        """Refuse to replace what isn't whole and this command's own, or what nobody asked to replace."""
        if self._check_own(folder) and not self.overwrite:
            raise OutputError(
                f"{self.shown} is there already, written by `histopipe {self.command}`: name another folder, or add "
                f"{OVERWRITE}"
            )

    def _check_own(self, folder: Path) -> bool:
        """Refuse what somebody else put there; returns whether it is this command's complete output."""
        if folder.is_symlink() or not folder.is_dir():
            raise OutputError(f"{self.shown} is a file or a link by now: name another folder")
        try:
            marker = _read_marker(folder)
            if marker is None:
                self._require_empty(folder)
                return False
            self._require_own(folder, dict(_entries(folder)), marker)
        except OSError as problem:
            raise OutputError(f"{self.shown} can't be looked through ({problem.strerror}): {_ELSEWHERE}") from None
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
    """The first names, files rather than folders of files; how many more there are."""
    files = [name for name in names if not name.endswith("/")] or list(names)
    more = f" and {len(files) - _NAMED} more" if len(files) > _NAMED else ""
    return ", ".join(files[:_NAMED]) + more


def _first_file(names: Sequence[str]) -> str | None:
    """A file rather than a folder of files."""
    return next((name for name in names if not name.endswith("/")), next(iter(names), None))


def claim_folder(
    out: Path, command: str, reads: Reads, overwrite: bool = False, workspace: Workspace | None = None
) -> OutputFolder:
    """Check, before any work, that a command may write the folder `out`.

    It may where the folder is absent, empty, or was left half-filled by a killed run of the same command; where it is
    the command's own complete output, with `overwrite`.

    Args:
        out: the folder, as the user wrote it.
        command: of `histopipe`, such as `predict`.
        reads: everything that it reads.
        overwrite: whether its own earlier output may be replaced.
        workspace: the checkout, whose own folders are none of `out`'s.

    Raises:
        OutputError: it may not; the message names the file that is in the way.
    """
    path = claim_place(out, reads, workspace)
    if os.path.lexists(path) and not path.is_dir():
        raise OutputError(f"{out} is a file: name a folder")
    folder = OutputFolder(path, out, command, overwrite)
    folder.require_free()
    return folder


def claimed(
    out: Path | OutputFolder, command: str, reads: Reads, overwrite: bool = True, workspace: Workspace | None = None
) -> OutputFolder:
    """`out` itself where it is claimed already; else as `claim_folder`."""
    return out if isinstance(out, OutputFolder) else claim_folder(out, command, reads, overwrite, workspace)


def claim_file(
    out: Path,
    command: str,
    reads: Reads,
    overwrite: bool = False,
    workspace: Workspace | None = None,
    own: Callable[[Path], bool] = lambda path: False,
) -> Path:
    """Check, before any work, that a command may write the file `out`; returns its path, links followed.

    Args:
        out: the file, as the user wrote it.
        command: of `histopipe`, such as `synth`.
        reads: everything that it reads.
        overwrite: whether its own earlier output may be replaced.
        workspace: the checkout, whose own folders are none of `out`'s.
        own: tells whether a file is one that the same command wrote, unchanged.

    Raises:
        OutputError: it may not.
    """
    path = claim_place(out, reads, workspace)
    if path.is_dir():
        raise OutputError(f"{out} is a folder: name a file")
    if os.path.lexists(path):
        if not path.is_file() or not own(path):
            raise OutputError(f"{out} is there already, and `histopipe {command}` didn't write it: name another file")
        if not overwrite:
            raise OutputError(
                f"{out} is there already, written by `histopipe {command}`: name another file, or add {OVERWRITE}"
            )
    return path


def claim_place(out: Path, reads: Reads, workspace: Workspace | None = None) -> Path:
    """Check, before any work, that something may be written at `out`, whatever lies there; links followed.

    Args:
        out: the file or folder, as the user wrote it.
        reads: everything that the command reads.
        workspace: the checkout, whose own folders are none of `out`'s.

    Raises:
        OutputError: it may not.
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
    """Files that a command puts into a folder beside others, as a file there lists them.

    Attributes:
        folder: that they lie in.
        command: that writes them.
        register: the name of the file that lists them, in its part `written`.
        overwrite: whether those that it wrote before may be replaced.
    """

    folder: Path
    command: str
    register: str
    overwrite: bool

    def require_free(self, names: Sequence[str], sealed: Sequence[str] = ()) -> None:
        """Check that files of these names may be written.

        Args:
            names: of new files.
            sealed: of texts that say themselves who wrote them (`sealed_text`), and are written anew without asking.

        Raises:
            OutputError: one is there and was not written by the command or changed since, or may not be replaced.
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
        """List files, by name with their digests, before they are written: a kill must leave none that isn't listed."""
        content = self._read()
        listed = content.pop("written")
        files = {name: [*_listed(listed, name), digest] for name, digest in digests.items()}
        unfinished = {*listed["unfinished"], *digests}
        self._write(content, {"files": listed["files"] | files, "unfinished": sorted(unfinished)})

    def finish(self, content: Mapping[str, Any], digests: Mapping[str, str]) -> None:
        """Write the register anew, with files that lie in place now and with `content` beside the list of them."""
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


def sealed_text(text: str, command: str) -> str:
    """A text in Markdown with a comment that says who wrote it, and tells whether it was changed since."""
    return f"{text}\n<!-- histopipe {command} {text_digest(text)} -->\n"


def _is_sealed(path: Path, command: str) -> bool:
    try:
        text = path.read_text(encoding="utf-8") if path.is_file() and not path.is_symlink() else ""
    except (OSError, UnicodeDecodeError):
        return False
    return bool(text) and text == sealed_text(text.rpartition("\n<!-- histopipe ")[0], command)


def _seal(content: object) -> str:
    return text_digest(json.dumps(content, sort_keys=True))


def text_digest(text: str) -> str:
    """SHA-256 of a text as it is written to a file, as hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _resolved(out: Path) -> Path:
    """Where `out` leads."""
    if out.parts[:1] == ("~",) and not os.path.lexists("~"):  # as after `--out=`; a folder of that name is a trap
        home = Path(os.environ.get("HOME", "/home/you"))
        raise OutputError(f"{out} begins with ~, which the shell left as it is: write {home.joinpath(*out.parts[1:])}")
    path = Path(os.path.realpath(out))
    if out.is_symlink() and not path.exists():
        raise OutputError(f"{out} is a link to {path}, which isn't there: make the folder, or name another")
    parents = [parent for parent in path.parents if os.path.lexists(parent)]
    if parents and not parents[0].is_dir():
        raise OutputError(f"{out} can't lie in {parents[0]}, which is a file: name another place")
    return path


def _require_apart(out: Path, path: Path, reads: Reads) -> None:
    """Check that what is written and what is read don't lie in each other, by whatever way they are reached."""
    try:
        target = Location.of(path)
        for what, paths in reads.items():
            for source in paths:
                _require_apart_from(out, target, what, source)
    except OSError as problem:
        where = problem.filename or out
        raise OutputError(f"{where} can't be looked up ({problem.strerror}): correct the path") from None


def _require_apart_from(out: Path, target: Location, what: str, source: Path) -> None:
    place = Location.of(source)
    if target.holds(place):
        raise OutputError(f"{out} holds {what} and would be replaced ({source}): write to another folder")
    if place.holds(target):
        raise OutputError(f"{out} lies in {what}, {source}, which is only read: write to another folder")
    if source.is_dir() and (link := leads_from(source, target)):
        raise OutputError(f"{out} is reached from {what}, {source}, through {link}: write to another folder")


def _require_unreserved(out: Path, path: Path, workspace: Workspace | None) -> None:
    """Check that `out` isn't the disk's root, a home, the checkout or one of its own folders."""
    target = Location.of(path)
    if path == path.parent or _holds_home(target):
        raise OutputError(f"{out} is {path}, which is no folder for results: name one in it")
    roots = {workspace.root, workspace.home} if workspace else set()
    for root in roots:
        if target.holds(Location.of(root)):
            raise OutputError(f"{out} is or holds the checkout {root}: name a folder in it, such as scores/new")
        for name in (*_RESERVED, *_RESERVED_FILES):
            reserved = Location.of(root / name)
            if reserved.holds(target) or target.holds(reserved):
                own = name if name in _RESERVED_FILES else f"{name}/"
                raise OutputError(f"{out} belongs to the checkout's own {own}: name another folder, such as scores/new")


def _holds_home(target: Location) -> bool:
    try:
        return target.holds(Location.of(Path.home()))
    except (OSError, RuntimeError):  # a user without one, as in containers
        return False


def _require_writable(out: Path, path: Path) -> None:
    nearest = next(parent for parent in (path, *path.parents) if parent.is_dir())
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise OutputError(f"{out} can't be written, {nearest} doesn't allow it: allow yourself to write there")
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        raise OutputError(f"{out}: its name is longer than {LONGEST_NAME} bytes: name a shorter one")


def _entries(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Names in a folder, at any depth, but for what systems leave and what histopipe is writing; folders end with `/`.

    Links aren't followed. Systems keep folders of their own at the top of a disk, and only there.
    """
    mounted = is_mount(folder)
    pending = [""]
    while pending:
        prefix = pending.pop()
        with os.scandir(folder / prefix) as scanned:
            inside = sorted(scanned, key=lambda entry: entry.name)
        for entry in inside:
            status = entry.stat(follow_symlinks=False)
            if left_over_name(entry.name) or (mounted and not prefix and is_leftover_folder(entry.name)):
                continue
            if stat.S_ISDIR(status.st_mode):
                pending.append(f"{prefix}{entry.name}/")
                yield f"{prefix}{entry.name}/", status
            elif not (stat.S_ISREG(status.st_mode) and is_system_file(entry.name)):
                yield prefix + entry.name, status


def foreign_file(folder: Path, patterns: Sequence[str]) -> Path | None:
    """A file in a folder, at any depth, whose name is none of the patterns'; the folder itself where it is a file.

    What systems leave doesn't count, nor do files that tell git and DVC what to pass over.

    Raises:
        OutputError: the folder can't be looked through.
    """
    if not folder.is_dir():
        return folder
    try:
        names = [name for name, _ in _entries(folder) if not _matches(name, (*patterns, *_IGNORE_FILES))]
    except OSError as problem:
        raise OutputError(f"{folder} can't be looked through ({problem.strerror}): allow yourself to read it") from None
    file = _first_file(names)
    return None if file is None else folder / file


def remove_known(folder: Path, patterns: Sequence[str]) -> None:
    """Delete a folder, unless a file in it has a name that is none of the patterns': it is a user's, and all stays.

    Raises:
        OutputError: the folder can't be looked through.
    """
    if folder.is_dir() and foreign_file(folder, patterns) is None:
        shutil.rmtree(folder, ignore_errors=True)


def is_system_file(name: str) -> bool:
    """Whether a file's name is one that operating systems leave in every folder, without content of the user's."""
    return is_leftover(name) and name not in _ALSO_USERS


def _read_marker(folder: Path) -> dict[str, Any] | None:
    """The marker of a folder; None where there is none that can be read."""
    path = folder / MARKER
    try:
        marker = json.loads(path.read_text(encoding="utf-8")) if path.is_file() and not path.is_symlink() else None
    except (OSError, ValueError, RecursionError):
        return None
    wanted = {"command": str, "complete": bool, "files": dict}
    if not isinstance(marker, dict) or any(not isinstance(marker.get(name), kind) for name, kind in wanted.items()):
        return None
    return marker


def _listed(marker: Mapping[str, Any], name: str) -> list[str]:
    """The digests that a file may have."""
    digests = marker["files"].get(name, [])
    return digests if isinstance(digests, list) else [digests]


def _remove_listed(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        with suppress(OSError):  # somebody's file came into it: it stays
            for entry in path.iterdir():
                if is_system_file(entry.name):
                    entry.unlink()
            path.rmdir()
    else:
        path.unlink(missing_ok=True)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name is one of the patterns', or a folder of them; `*` stands for no `/`."""
    parts, folder = name.rstrip("/").split("/"), name.endswith("/")
    for pattern in patterns:
        wanted = pattern.split("/")
        fits = len(parts) < len(wanted) if folder else len(parts) == len(wanted)
        if fits and all(map(fnmatchcase, parts, wanted)):
            return True
    return False
