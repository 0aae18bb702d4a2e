"""What a stage reads, as it was when the stage began: what is made from it may not be recorded as made from other.

DVC notes the parameters and dependencies of a command as they are when it ends. Whoever edits `params.yaml`, checks out
another branch or runs `split` by hand meanwhile would have a network on record that was trained with something else.
So a stage takes note of what `dvc.yaml` says that it reads, and looks again before its outputs take their place.

Files are first compared by size, time of change and inode; by content only where those differ, so that a `touch`, or
the same commit checked out again, is no change.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import xxhash
import yaml

from histopipe.core.errors import ChangedInputError, HistopipeError
from histopipe.core.files import parse_yaml, read_yaml
from histopipe.core.lineage import locked_stage
from histopipe.core.workspace import PARAMS_FILE, Workspace

LOG = logging.getLogger(__name__)
DVC_FILE = "dvc.yaml"
SAME_INPUTS = {"trial": "train", "search": "train"}  # commands that DVC doesn't know, and whose inputs they have
FURTHER_KEYS = dict.fromkeys(SAME_INPUTS, ("search.${item.architecture}",))  # that they read besides
LARGE = 64 * 2**20  # bytes of a file that isn't read through at the start, nor are
DIGESTED = 64 * 2**20  # more bytes than these of all files together
SETTLED_SECONDS = 2.0  # a file changed later than that may change again within one tick of the file system's clock

_ITEM = re.compile(r"\$\{item\.(\w+)\}")
_COMPILED = "__pycache__"  # as in .dvcignore
_LITTER = ("Thumbs.db", "desktop.ini")
_MISSING = object()

Signature = tuple[int, int, int]  # size, time of change in ns, inode


@dataclass(frozen=True)
class Declaration:
    """What `dvc.yaml` says that a stage reads.

    Attributes:
        keys: of `params.yaml`, dotted.
        paths: of files and folders, relative to the checkout.
        kept: outputs of its last run that it goes on from (`persist`), and writes itself in the end.
    """

    keys: Sequence[str] = ()
    paths: Sequence[str] = ()
    kept: Sequence[str] = ()


@dataclass
class FileState:
    """How a file looked, and the digest of its content; None where it was too large to be read through."""

    signature: Signature | None
    digest: str | None = None


@dataclass
class StageInputs:
    """Parameters and files that a stage reads, as they were when it began.

    Attributes:
        stage: its name, such as `train@idc-cancernet`.
        root: of the checkout.
        params_text: the content of `params.yaml`; None where there is none.
        declared: what counts.
        files: every file that counts, by path.
        own: those of them that the stage itself writes in the end.
        recorded: where files are too large to be read through, what DVC has on record of their folder: MD5 by path.
    """

    stage: str
    root: Path
    params_text: str | None
    declared: Declaration
    files: dict[Path, FileState]
    recorded: dict[str, dict[Path, str]] = field(default_factory=dict)
    own: frozenset[Path] = frozenset()
    warned: bool = False

    @classmethod
    def taken(cls, stage: str, workspace: Workspace, further: Iterable[Path] = ()) -> StageInputs:
        """Take note of what a stage reads now.

        Args:
            stage: its name.
            workspace: the checkout.
            further: files and folders that it reads whatever `dvc.yaml` says.

        Raises:
            HistopipeError: `dvc.yaml` can't be read.
        """
        declared = declaration(stage, workspace)
        more = [os.path.relpath(path, workspace.root) for path in further]
        declared = replace(declared, paths=list(dict.fromkeys([*declared.paths, *more])))
        inputs = cls(stage, workspace.root, _text(workspace.params), declared, {})
        inputs.own = frozenset(inputs._paths(declared.kept))
        inputs.files = {path: FileState(_signature(path)) for path in [*inputs._paths(declared.paths), *inputs.own]}
        inputs._read_through()
        inputs.recorded = inputs._on_record(workspace)
        return inputs

    def require_unchanged(self, kept: str = "", written: bool = False) -> None:
        """Check that all of it is as it was.

        Args:
            kept: what to say of work that isn't lost.
            written: whether the stage has written its outputs by now.

        Raises:
            ChangedInputError: something is another; it is named.
        """
        if change := self.change(written):
            remedy = kept or "put back what changed, or leave it, and run the same command again"
            raise ChangedInputError(f"{self.stage}: {change} while it ran, so its result is not kept: {remedy}")

    def warn_if_changed(self) -> None:
        """Say once, before the end, that the result won't be kept as things are."""
        if not self.warned and (change := self.change()):
            self.warned = True
            LOG.warning("%s: %s while it runs: its result won't be kept unless that is undone", self.stage, change)

    def change(self, written: bool = False) -> str | None:
        """The first thing that isn't as it was, in words; None where all is.

        Args:
            written: whether the stage has written its outputs by now, which then don't count.
        """
        return self._changed_key() or self._changed_file([] if written else self.declared.kept)

    def _changed_key(self) -> str | None:
        now = _text(self.root / PARAMS_FILE)
        if now == self.params_text or not self.declared.keys:
            return None
        try:
            before, after = (parse_yaml(text or "") or {} for text in (self.params_text, now))
        except yaml.YAMLError:
            return f"{PARAMS_FILE} became invalid YAML"
        differences = [_difference(_value(before, key), _value(after, key), key) for key in self.declared.keys]
        changed = [difference for difference in differences if difference]
        return f"{changed[0]} in {PARAMS_FILE} changed" if changed else None

    def _changed_file(self, kept: Sequence[str]) -> str | None:
        now = set(self._paths([*self.declared.paths, *kept]))
        before = set(self.files) if kept else set(self.files) - self.own
        for path in sorted(now ^ before):
            return f"{self._shown(path)} {'appeared' if path in now else 'was removed'}"
        changed = (path for path in self.files if path in now and not self._is_same(path, self.files[path]))
        return next((f"{self._shown(path)} changed" for path in changed), None)

    def _is_same(self, path: Path, state: FileState) -> bool:
        signature = _signature(path)
        if signature is None or signature == state.signature:
            return signature == state.signature
        if state.digest is None:
            return state.signature is not None and signature[0] == state.signature[0] and self._is_as_recorded(path)
        if _digest(path) != state.digest:
            return False
        state.signature = signature
        return True

    def _is_as_recorded(self, path: Path) -> bool:
        """Whether the folder of a large file is, whole, what DVC had on record at the start."""
        for files in self.recorded.values():
            if path in files:
                return all(_md5(each) == recorded for each, recorded in files.items())
        return False

    def _paths(self, names: Iterable[str]) -> list[Path]:
        return [file for name in names for file in _files_under(self.root / name)]

    def _read_through(self) -> None:
        """Digest the files, the small ones first, up to a limit; what changes right now is compared by content."""
        left, now = DIGESTED, time.time_ns()
        for path, state in sorted(self.files.items(), key=lambda each: each[1].signature or (0, 0, 0)):
            size, changed, _ = state.signature or (0, 0, 0)
            if size > min(left, LARGE):
                break
            left -= size
            state.digest = _digest(path)
            if now - changed < SETTLED_SECONDS * 1e9:
                state.signature = (-1, 0, 0)

    def _on_record(self, workspace: Workspace) -> dict[str, dict[Path, str]]:
        large = [path for path, state in self.files.items() if state.digest is None and state.signature]
        folders = {path for path in self.declared.paths for file in large if file.is_relative_to(self.root / path)}
        records = {folder: recorded_files(workspace, folder) for folder in folders}
        return {folder: files for folder, files in records.items() if files}

    def _shown(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)


_CURRENT: ContextVar[StageInputs | None] = ContextVar("stage_inputs", default=None)


@contextmanager
def watched(inputs: StageInputs) -> Iterator[None]:
    """Inside, `require_unchanged_inputs` is about these; they are also looked at when all is done.

    Raises:
        ChangedInputError: some of it changed.
    """
    token = _CURRENT.set(inputs)
    try:
        yield
        inputs.require_unchanged(written=True)
    finally:
        _CURRENT.reset(token)


def require_unchanged_inputs() -> None:
    """Check, before outputs take their place, that what the running stage reads is as it was when it began.

    Raises:
        ChangedInputError: some of it changed.
    """
    if inputs := _CURRENT.get():
        inputs.require_unchanged()


def inputs_of(stage: str, workspace: Workspace, files: Iterable[Path]) -> StageInputs:
    """The inputs of the stage that runs; taken now where a function is called outside of any command.

    Args:
        stage: its name.
        workspace: the checkout.
        files: what it reads at least.
    """
    current = _CURRENT.get()
    return current if current and current.files else StageInputs.taken(stage, workspace, files)


def declaration(stage: str, workspace: Workspace) -> Declaration:
    """What `dvc.yaml` says that a stage reads, also of a variant that no list of `params.yaml` names.

    Nothing where `dvc.yaml` doesn't know the stage.

    Raises:
        HistopipeError: `dvc.yaml` isn't what it should be.
    """
    kind, _, about = stage.partition("@")
    path = workspace.root / DVC_FILE
    try:
        definition = dict(read_yaml(path)["stages"].get(SAME_INPUTS.get(kind, kind)) or {})
        matrix = definition.get("matrix") or {}
        limit = len(matrix) - 1 if "variant" in matrix else -1  # a variant's name holds a dash, others don't
        item = dict(zip(matrix, about.split("-", limit), strict=False))
        keys, others = _split_params([*(definition.get("params") or []), *FURTHER_KEYS.get(kind, ())], item)
        paths = [*_names(definition.get("deps") or [], item), *others]
        kept = _names(_persisted(definition), item)
    except FileNotFoundError:
        return Declaration()
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
        raise HistopipeError(f"{path} is not what DVC reads: run `git checkout {DVC_FILE}`") from None
    return Declaration(keys, paths, kept)


def _split_params(entries: Iterable[Any], item: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Keys of `params.yaml`, and other files of parameters."""
    keys: list[str] = []
    others: list[str] = []
    for entry in entries:
        for file, named in entry.items() if isinstance(entry, dict) else [(PARAMS_FILE, [entry])]:
            if file == PARAMS_FILE:
                keys += _names(named or [], item)
            else:
                others += _names([file], item)
    return keys, others


def _persisted(definition: Mapping[str, Any]) -> list[str]:
    outputs = [entry for entry in definition.get("outs") or [] if isinstance(entry, dict)]
    return [name for entry in outputs for name, options in entry.items() if (options or {}).get("persist")]


def _names(entries: Iterable[Any], item: Mapping[str, str]) -> list[str]:
    """Names with the matrix's values put in; those that ask for another value are left out."""
    plain = [next(iter(entry)) if isinstance(entry, dict) else str(entry) for entry in entries]
    filled = [_ITEM.sub(lambda match: item.get(match[1], match[0]), name) for name in plain]
    return [name for name in filled if "${" not in name]


def recorded_files(workspace: Workspace, path: str) -> dict[Path, str]:
    """MD5 of every file of an output, by path, as `dvc.lock` and the checkout's cache have it; empty where they don't.

    Args:
        workspace: the checkout.
        path: of the output, relative to it.
    """
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        stages = read_yaml(workspace.dvc_lock)["stages"].values()
        outputs = [out for stage in stages for out in stage.get("outs") or [] if out["path"] == path]
        digest = str(outputs[0]["md5"]) if outputs else ""
        if not digest.endswith(".dir"):
            return {workspace.root / path: digest} if digest else {}
        listing = workspace.home / ".dvc" / "cache" / "files" / "md5" / digest[:2] / digest[2:]
        entries = json.loads(listing.read_text(encoding="utf-8"))
        return {workspace.root / path / entry["relpath"]: str(entry["md5"]) for entry in entries}
    return {}


def remedy_for(stage: str, workspace: Workspace) -> str:
    """The command that makes a stage's outputs anew, also where `dvc.lock` has others for those of today's inputs.

    That is so where parameters were edited while an earlier release ran it: DVC then calls it up to date.
    """
    return f"dvc repro {'--force --single-item ' if seems_current(stage, workspace) else ''}{stage}"


def seems_current(stage: str, workspace: Workspace) -> bool:
    """Whether `dvc.lock` has a stage with the parameters and files of now; its folders aren't looked at."""
    locked = locked_stage(workspace, stage)
    if locked is None:
        return False
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        content = read_yaml(workspace.params)
        keys = (locked.get("params") or {}).get(PARAMS_FILE) or {}
        files = {dep["path"]: dep["md5"] for dep in locked["deps"] if not dep["md5"].endswith(".dir")}
        same = all(_value(content, key) == value for key, value in keys.items())
        return same and all(_md5(workspace.root / path) == digest for path, digest in files.items())
    return False


def _files_under(path: Path) -> Iterator[Path]:
    """The file itself, or the files of a folder; not what editors, file managers or Python leave there."""
    if not path.is_dir():
        yield path
        return
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if name != _COMPILED and not _is_litter(name))
        yield from (Path(folder, name) for name in sorted(names) if not _is_litter(name))


def _is_litter(name: str) -> bool:
    return name.startswith((".", "#")) or name.endswith("~") or name in _LITTER


def _signature(path: Path) -> Signature | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_size, status.st_mtime_ns, status.st_ino)


def _digest(path: Path) -> str | None:
    with suppress(OSError), path.open("rb") as stream:
        return hashlib.file_digest(stream, xxhash.xxh3_128).hexdigest()
    return None


def _md5(path: Path) -> str | None:
    with suppress(OSError), path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return None


def _text(path: Path) -> str | None:
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    return None


def _value(content: Any, key: str) -> Any:
    for step in key.split("."):
        if not isinstance(content, dict) or step not in content:
            return _MISSING
        content = content[step]
    return content


def _difference(before: Any, now: Any, key: str) -> str | None:
    """The first value that differs, as `recipes.cancernet.epochs (40 to 60)`."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in [*before, *(name for name in now if name not in before)]:
            if found := _difference(before.get(name, _MISSING), now.get(name, _MISSING), f"{key}.{name}"):
                return found
        return None
    return None if before == now else f"{key} ({_short(before)} to {_short(now)})"


def _short(value: Any) -> str:
    if value is _MISSING:
        return "absent"
    return json.dumps(value, ensure_ascii=True, default=str)[:40]
