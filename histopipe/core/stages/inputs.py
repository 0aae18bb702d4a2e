"""Inputs of a stage as they were at its start: a result must not be recorded as made from other inputs.

DVC records the parameters and dependencies of a command as they are when it ends. If someone edits `params.yaml`,
checks out another branch or runs `split` by hand meanwhile, DVC would record other inputs than the network was trained
with. So a stage notes its inputs, as `dvc.yaml` declares them, and compares them again before its outputs are moved
into place.

Files are first compared by size, time of change and inode, and by content only where those differ. So neither a `touch`
nor checking out the same commit again counts as a change.
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
SAME_INPUTS = {"trial": "train", "search": "train"}  # commands that are no stages, and the stage whose inputs they have
FURTHER_KEYS = dict.fromkeys(SAME_INPUTS, ("search.${item.architecture}",))  # keys that they read in addition
LARGE = 64 * 2**20  # bytes: larger files aren't digested at the start
DIGESTED = 64 * 2**20  # bytes: limit of all files that are digested at the start
SETTLED_SECONDS = 2.0  # a file changed later than that may change again within one tick of the file system's clock

_ITEM = re.compile(r"\$\{item\.(\w+)\}")
_COMPILED = "__pycache__"  # as in .dvcignore
_LITTER = ("Thumbs.db", "desktop.ini")
_MISSING = object()

Signature = tuple[int, int, int]  # size, time of change in ns, inode


@dataclass(frozen=True)
class Declaration:
    """The inputs of a stage, as `dvc.yaml` declares them.

    Attributes:
        keys: dotted keys of `params.yaml`.
        paths: paths of files and folders, relative to the checkout.
        kept: outputs of the stage's last run that it continues from (`persist`), and replaces in the end.
    """

    keys: Sequence[str] = ()
    paths: Sequence[str] = ()
    kept: Sequence[str] = ()


@dataclass
class FileState:
    """The state of a file: size, time and inode, and the digest of its content (None where it was too large)."""

    signature: Signature | None
    digest: str | None = None


@dataclass
class StageInputs:
    """Parameters and files that a stage reads, as they were when it began.

    Attributes:
        stage: the name of the stage, such as `train@idc-cancernet`.
        root: the folder of the checkout.
        params_text: the content of `params.yaml`; None where there is none.
        declared: the declared inputs.
        files: the state of every input file, by path.
        own: input files that the stage itself writes in the end.
        recorded: for folders with files too large to digest, the MD5 by path that DVC has on record.
        warned: whether a change has been logged.
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
    def record(cls, stage: str, workspace: Workspace, further: Iterable[Path] = ()) -> StageInputs:
        """Note the current state of a stage's inputs.

        Args:
            stage: the name of the stage.
            workspace: the checkout.
            further: files and folders that it reads in addition to those that `dvc.yaml` declares.

        Raises:
            HistopipeError: `dvc.yaml` can't be read.
        """
        declared = read_declaration(stage, workspace)
        more = [os.path.relpath(path, workspace.root) for path in further]
        declared = replace(declared, paths=list(dict.fromkeys([*declared.paths, *more])))
        inputs = cls(stage, workspace.root, _text(workspace.params), declared, {})
        inputs.own = frozenset(inputs._paths(declared.kept))
        inputs.files = {path: FileState(_signature(path)) for path in [*inputs._paths(declared.paths), *inputs.own]}
        inputs._read_through()
        inputs.recorded = inputs._on_record(workspace)
        return inputs

    def require_unchanged(self, remedy: str = "", written: bool = False) -> None:
        """Check that no input has changed.

        Args:
            remedy: what the user can do, for the message; by default, to undo the change or run the command again.
            written: whether the stage has written its outputs by now.

        Raises:
            ChangedInputError: an input has changed; the message names it.
        """
        if change := self.change(written):
            remedy = remedy or "undo the change, or keep it, and run the same command again"
            raise ChangedInputError(f"{self.stage}: {change} while it ran, so its result is not kept: {remedy}")

    def warn_if_changed(self) -> None:
        """Log one warning while the stage runs if an input has changed, since its result will then be discarded."""
        if not self.warned and (change := self.change()):
            self.warned = True
            LOG.warning("%s: %s while it runs: its result won't be kept unless you undo that", self.stage, change)

    def change(self, written: bool = False) -> str | None:
        """Describe the first input that has changed; None if none has.

        Args:
            written: whether the stage has written its outputs by now; then they aren't compared.
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
        """Return whether the whole folder of a large file matches what DVC had on record at the start."""
        for files in self.recorded.values():
            if path in files:
                return all(_md5(file) == recorded for file, recorded in files.items())
        return False

    def _paths(self, names: Iterable[str]) -> list[Path]:
        return [file for name in names for file in _files_under(self.root / name)]

    def _read_through(self) -> None:
        """Digest the files, small ones first, up to a limit; files changed just now are compared by content."""
        left, now = DIGESTED, time.time_ns()
        for path, state in sorted(self.files.items(), key=lambda item: item[1].signature or (0, 0, 0)):
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
def watch_inputs(inputs: StageInputs) -> Iterator[None]:
    """Set the inputs that `require_unchanged_inputs` checks inside the block, and check them again at its end.

    Raises:
        ChangedInputError: an input has changed since the stage began.
    """
    token = _CURRENT.set(inputs)
    try:
        yield
        inputs.require_unchanged(written=True)
    finally:
        _CURRENT.reset(token)


def require_unchanged_inputs() -> None:
    """Check, before outputs are moved into place, that the running stage's inputs haven't changed since its start.

    Raises:
        ChangedInputError: an input has changed since the stage began.
    """
    if inputs := _CURRENT.get():
        inputs.require_unchanged()


def current_inputs(stage: str, workspace: Workspace, files: Iterable[Path]) -> StageInputs:
    """Return the inputs of the running stage; note them now where a function is called outside of a command.

    Args:
        stage: the name of the stage.
        workspace: the checkout.
        files: files that the stage reads in any case.
    """
    current = _CURRENT.get()
    return current if current and current.files else StageInputs.record(stage, workspace, files)


def read_declaration(stage: str, workspace: Workspace) -> Declaration:
    """Return what `dvc.yaml` declares that a stage reads, also for a variant that `params.yaml` doesn't list.

    The declaration is empty where `dvc.yaml` doesn't have the stage.

    Raises:
        HistopipeError: `dvc.yaml` isn't valid.
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
        raise HistopipeError(f"{path} is not valid: run `git checkout {DVC_FILE}`") from None
    return Declaration(keys, paths, kept)


def _split_params(entries: Iterable[Any], item: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Divide a stage's params into keys of `params.yaml` and other files."""
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
    """Fill the matrix's values into names; names that need another value are left out."""
    plain = [next(iter(entry)) if isinstance(entry, dict) else str(entry) for entry in entries]
    filled = [_ITEM.sub(lambda match: item.get(match[1], match[0]), name) for name in plain]
    return [name for name in filled if "${" not in name]


def recorded_files(workspace: Workspace, path: str) -> dict[Path, str]:
    """Return the MD5 of every file of an output, by path, from `dvc.lock` and the cache; empty if they lack it.

    Args:
        workspace: the checkout.
        path: the path of the output, relative to the checkout.
    """
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        stages = read_yaml(workspace.dvc_lock)["stages"].values()
        outputs = [out for stage in stages for out in stage.get("outs") or [] if out["path"] == path]
        digest = str(outputs[0]["md5"]) if outputs else ""
        if not digest.endswith(".dir"):
            return {workspace.root / path: digest} if digest else {}
        listing = workspace.checkout / ".dvc" / "cache" / "files" / "md5" / digest[:2] / digest[2:]
        entries = json.loads(listing.read_text(encoding="utf-8"))
        return {workspace.root / path / entry["relpath"]: str(entry["md5"]) for entry in entries}
    return {}


def rerun_command(stage: str, workspace: Workspace) -> str:
    """Return the command that makes a stage's outputs again, even if DVC calls the stage up to date.

    DVC wrongly calls a stage up to date if parameters were edited while an earlier release ran it.
    """
    return f"dvc repro {'--force --single-item ' if is_up_to_date(stage, workspace) else ''}{stage}"


def is_up_to_date(stage: str, workspace: Workspace) -> bool:
    """Return whether `dvc.lock` has a stage with today's parameters and files; folders aren't compared."""
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
    """Yield the file itself, or the files of a folder, except those of editors, file managers and Python."""
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
    """Describe the first value that differs: `recipes.cancernet.epochs (40 to 60)`."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in [*before, *(name for name in now if name not in before)]:
            if difference := _difference(before.get(name, _MISSING), now.get(name, _MISSING), f"{key}.{name}"):
                return difference
        return None
    return None if before == now else f"{key} ({_short(before)} to {_short(now)})"


def _short(value: Any) -> str:
    if value is _MISSING:
        return "absent"
    return json.dumps(value, ensure_ascii=True, default=str)[:40]
