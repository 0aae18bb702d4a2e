"""Check that outputs, and DVC's copies of them, still hold the bytes that `dvc.lock` records.

DVC compares a file's size and modification time, and trusts the read-only files of its cache. A byte that a disk
flipped changes neither, so `dvc status`, `dvc repro` and `dvc checkout` don't notice it. Here every file is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from histopipe.core.dvc import run_dvc
from histopipe.core.errors import HistopipeError
from histopipe.core.files import file_md5, format_size, read_yaml
from histopipe.core.processes import available_cores
from histopipe.core.stages.running import running_stages
from histopipe.core.workspace import Workspace
from histopipe.operations.doctor.finding import Finding
from histopipe.operations.gc.cache import cache_folder

SHOWN = 3  # files that are named; the rest are counted
UNREADABLE = ""  # the digest of a file that the disk can't read any more


@dataclass(frozen=True)
class RecordedFile:
    """A file of an output.

    Attributes:
        path: its path in the checkout.
        digest: its MD5 as recorded in `dvc.lock` or a `.dvc` file.
        maker: the stage that wrote it, or the `.dvc` file.
    """

    path: Path
    digest: str
    maker: str


@dataclass(frozen=True)
class Listing:
    """DVC's record of an output that is a folder.

    Attributes:
        folder: the output.
        digest: the name of its list of files in the cache, `….dir`.
        maker: the stage that wrote it, or the `.dvc` file.
    """

    folder: Path
    digest: str
    maker: str


@dataclass(frozen=True)
class Contents:
    """The result of reading every recorded file.

    Attributes:
        cache: the folder of DVC's cache.
        count: the number of files of the checkout that were read.
        size: the bytes that were read, including DVC's copies.
        seconds: the time it took.
        intact: files of the checkout that hold what is recorded.
        damaged: files that changed without DVC noticing, or together with DVC's copy.
        changed: other files that differ from the record, which `dvc status` reports too.
        objects: digests of damaged files in DVC's cache.
        listings: folders whose list of files in the cache is damaged.
    """

    cache: Path
    count: int
    size: int
    seconds: float
    intact: tuple[RecordedFile, ...]
    damaged: tuple[RecordedFile, ...]
    changed: tuple[RecordedFile, ...]
    objects: tuple[str, ...]
    listings: tuple[Listing, ...]


def check_outputs(workspace: Workspace) -> Finding:
    """Compare every recorded output, and DVC's copy of it, with `dvc.lock`."""
    try:
        contents = read_contents(workspace)
    except (HistopipeError, OSError, yaml.YAMLError) as problem:
        return Finding("outputs", f"can't be compared with dvc.lock ({problem})", "warning", "see DVC above")
    cost = f"{contents.count:,} files, {format_size(contents.size)} with DVC's copies, read in {contents.seconds:.0f} s"
    if faulty := damaged_paths(contents):
        observation = f"{len(faulty)} damaged, unnoticed by DVC: {_list_paths(workspace, faulty)} ({cost})"
        return Finding("outputs", observation, "error", "`histopipe doctor --mend`")
    if contents.changed:
        paths = [file.path for file in contents.changed]
        observation = (
            f"{len(paths)} differ from dvc.lock, as `dvc status` also reports: {_list_paths(workspace, paths)} ({cost})"
        )
        makers = " ".join(sorted({file.maker for file in contents.changed}))
        remedy = f"`dvc checkout --force {makers}` restores them, `dvc commit --force {makers}` keeps the changes"
        return Finding("outputs", observation, "warning", remedy)
    return Finding("outputs", cost if contents.count else "none recorded here")


def damaged_paths(contents: Contents) -> list[Path]:
    """List the damaged files: those of the checkout first, then those of DVC's cache."""
    stored = [*contents.objects, *(listing.digest for listing in contents.listings)]
    return [*(file.path for file in contents.damaged), *(object_path(contents.cache, digest) for digest in stored)]


def _list_paths(workspace: Workspace, paths: Collection[Path]) -> str:
    names = [str(path.relative_to(workspace.root) if path.is_relative_to(workspace.root) else path) for path in paths]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def object_path(cache: Path, digest: str) -> Path:
    """Return the path of the object with a digest in DVC's cache."""
    return cache / "files" / "md5" / digest[:2] / digest[2:]


def read_contents(workspace: Workspace) -> Contents:
    """Read all files that `dvc.lock` and `.dvc` files record, in the checkout and in DVC's cache.

    Missing files and outputs of running stages are left out.

    Raises:
        HistopipeError: there is no DVC repository.
    """
    begun = time.monotonic()
    cache = cache_folder(workspace)
    files, listings = _recorded(workspace, cache)
    stored = {file.digest: object_path(cache, file.digest) for file in files}
    listed = {listing.digest: object_path(cache, listing.digest) for listing in listings}
    present = [file for file in files if file.path.is_file()]
    paths = [*(file.path for file in present), *stored.values(), *listed.values()]
    digests, size = _digests(path for path in paths if path.is_file())
    objects = tuple(digest for digest, path in stored.items() if digests.get(path, digest) != digest)
    differing = [file for file in present if digests.get(file.path, file.digest) != file.digest]
    damaged, changed = _divide(workspace, differing, set(objects), cache)
    return Contents(
        cache,
        len(present),
        size,
        time.monotonic() - begun,
        tuple(file for file in present if digests.get(file.path) == file.digest),
        damaged,
        changed,
        objects,
        tuple(item for item in listings if _is_damaged(item.digest, digests.get(listed[item.digest]))),
    )


def _is_damaged(listing: str, digest: str | None) -> bool:
    return digest is not None and f"{digest}.dir" != listing


def _recorded(workspace: Workspace, cache: Path) -> tuple[list[RecordedFile], list[Listing]]:
    """Return all recorded files, and the recorded folders with their lists of files."""
    files, listings = [], []
    busy = set(running_stages(workspace))
    for maker, path, digest in _records(workspace):
        if maker in busy:
            continue
        if not digest.endswith(".dir"):
            files.append(RecordedFile(path, digest, maker))
            continue
        listing = Listing(path, digest, maker)
        listings.append(listing)
        files += [RecordedFile(path / name, inner, maker) for name, inner in _entries(cache, listing)]
    return files, listings


def _records(workspace: Workspace) -> Iterator[tuple[str, Path, str]]:
    """Yield maker, path and digest of every output of `dvc.lock`, then of every `.dvc` file."""
    lock = read_yaml(workspace.dvc_lock) if workspace.dvc_lock.exists() else None
    for stage, record in ((lock or {}).get("stages") or {}).items():
        yield from ((stage, *output) for output in _outputs(record, workspace.root))
    for path in _tracking_files(workspace.root):
        name = str(path.relative_to(workspace.root))
        yield from ((name, *output) for output in _outputs(read_yaml(path), path.parent))


def _outputs(record: Any, folder: Path) -> Iterator[tuple[Path, str]]:
    for output in (record or {}).get("outs") or ():
        if output.get("hash") == "md5" and output.get("md5"):  # before DVC 3, digests of texts ignored \r
            yield folder / output["path"], str(output["md5"])


def _tracking_files(root: Path) -> Iterator[Path]:
    """Yield the `.dvc` files of a checkout, except in hidden folders and in folders of outputs."""
    for folder, inner, names in os.walk(root):
        outer = Path(folder) == root
        inner[:] = [name for name in inner if not name.startswith(".") and not (outer and name in _OUTPUT_FOLDERS)]
        yield from (Path(folder) / name for name in sorted(names) if name.endswith(".dvc") and name != ".dvc")


_OUTPUT_FOLDERS = frozenset(["data", "models", "evaluations", "reports", "studies", "mlruns", "mlartifacts"])


def _entries(cache: Path, listing: Listing) -> list[tuple[str, str]]:
    """Return names and digests of a folder's files; nothing if the list is missing or damaged."""
    try:
        content = object_path(cache, listing.digest).read_bytes()
    except OSError:
        return []
    if _is_damaged(listing.digest, hashlib.md5(content, usedforsecurity=False).hexdigest()):
        return []
    return [(str(entry["relpath"]), str(entry["md5"])) for entry in json.loads(content)]


def _digests(paths: Iterator[Path]) -> tuple[dict[Path, str], int]:
    """Compute the MD5 of each path; return them and the bytes read, which count linked files once."""
    inodes: dict[Path, tuple[int, int]] = {}
    sizes: dict[tuple[int, int], int] = {}
    readable: dict[tuple[int, int], Path] = {}
    for path in dict.fromkeys(paths):
        state = path.stat()
        inodes[path] = (state.st_dev, state.st_ino)
        sizes[inodes[path]] = state.st_size
        readable.setdefault(inodes[path], path)
    by_inode: dict[tuple[int, int], str | None] = {}
    total = sum(sizes.values())
    with (
        tqdm(total=total, desc="outputs", unit="B", unit_scale=True, file=sys.stderr, leave=False) as bar,
        ThreadPoolExecutor(min(4, available_cores())) as pool,
    ):
        for inode, digest in zip(readable, pool.map(_digest, readable.values()), strict=True):
            by_inode[inode] = digest
            bar.update(sizes[inode])
    return {path: digest for path, inode in inodes.items() if (digest := by_inode[inode]) is not None}, total


def _digest(path: Path) -> str | None:
    """Compute a file's MD5; None if it is gone or may not be read; `UNREADABLE` if the disk fails."""
    try:
        return file_md5(path)
    except (FileNotFoundError, PermissionError):
        return None
    except OSError:
        return UNREADABLE


def _divide(
    workspace: Workspace, differing: Collection[RecordedFile], objects: Collection[str], cache: Path
) -> tuple[tuple[RecordedFile, ...], tuple[RecordedFile, ...]]:
    """Divide differing files into damaged ones and changed ones; DVC notices changes, and its copies stay intact."""
    if not differing:
        return (), ()
    noticed = _changed_for_dvc(workspace)
    shared = {file for file in differing if file.digest in objects and _same_file(file, cache)}
    changed = tuple(file for file in differing if file not in shared and (noticed is None or file.path in noticed))
    return tuple(file for file in differing if file not in changed), changed


def _same_file(file: RecordedFile, cache: Path) -> bool:
    try:
        return file.path.samefile(object_path(cache, file.digest))
    except OSError:
        return False


def _changed_for_dvc(workspace: Workspace) -> frozenset[Path] | None:
    """Return the files that DVC reports as changed; None if it fails."""
    done = run_dvc(workspace, "data", "status", "--granular", "--json")
    try:
        uncommitted: Mapping[str, Any] = json.loads(done.stdout).get("uncommitted") or {}
    except ValueError:
        return None
    return frozenset(workspace.root / name for name in uncommitted.get("modified") or ())
