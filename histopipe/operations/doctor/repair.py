"""Repair damaged outputs: `histopipe doctor --mend`.

A damaged file of DVC's cache is replaced by an intact one from the checkout, else from the remote. If there is neither,
it is removed from the cache, so that `dvc repro` computes it again instead of using it. Then damaged files of the
checkout are replaced from the cache.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from histopipe.core.dvc import error_line, run_dvc
from histopipe.core.errors import HistopipeError
from histopipe.core.files import file_md5, replaced_file, temporary_path
from histopipe.core.workspace import Workspace
from histopipe.operations.doctor.outputs import Contents, Listing, RecordedFile, object_path, read_contents
from histopipe.operations.gc.cache import is_shared

TOGETHER = 500  # paths per command, whose length the system limits
READ_ONLY = 0o444  # the mode that DVC gives the files of its cache


@dataclass(frozen=True)
class Repair:
    """The result of a repair.

    Attributes:
        restored: files of the checkout and of DVC's cache that again hold what is recorded.
        lost: files of the checkout without any intact copy; `dvc repro` computes them again.
    """

    restored: tuple[Path, ...]
    lost: tuple[RecordedFile, ...]


def repair_outputs(workspace: Workspace) -> Repair:
    """Replace damaged files by intact copies; changed files that DVC notices are left as they are.

    Raises:
        HistopipeError: DVC can't restore a file, or other checkouts use a damaged file that nothing can replace.
    """
    contents = read_contents(workspace)
    replaced = [*_replace_objects(contents), *_replace_listings(contents)]
    missing = [digest for digest in _damaged_objects(contents) if object_path(contents.cache, digest) not in replaced]
    replaced += _fetch_objects(workspace, contents, missing)
    lost = {file for file in contents.damaged if not object_path(contents.cache, file.digest).is_file()}
    restorable = [file.path for file in contents.damaged if file not in lost]
    _restore_files(workspace, restorable)
    unreplaced = _files_of(contents, [digest for digest in missing if not _is_cached(contents, digest)])
    return Repair((*restorable, *replaced), tuple(sorted({*lost, *unreplaced}, key=lambda file: file.path)))


def _damaged_objects(contents: Contents) -> list[str]:
    return [*contents.objects, *(listing.digest for listing in contents.listings)]


def _is_cached(contents: Contents, digest: str) -> bool:
    return object_path(contents.cache, digest).is_file()


def _files_of(contents: Contents, digests: Sequence[str]) -> Iterator[RecordedFile]:
    """Yield the files and folders of the checkout with these digests."""
    yield from (file for file in (*contents.damaged, *contents.intact) if file.digest in digests)
    for listing in contents.listings:
        if listing.digest in digests:
            yield RecordedFile(listing.folder, listing.digest, listing.maker)


def _replace_objects(contents: Contents) -> Iterator[Path]:
    """Replace damaged files of the cache by intact ones of the checkout; yield them."""
    intact = {file.digest: file.path for file in contents.intact}
    for digest in contents.objects:
        if digest in intact:
            path = object_path(contents.cache, digest)
            with replaced_file(path) as partial:
                shutil.copyfile(intact[digest], partial)
                partial.chmod(READ_ONLY)
            yield path


def _replace_listings(contents: Contents) -> Iterator[Path]:
    """Write damaged lists of a folder's files again if the folder is unchanged; yield them."""
    for listing in contents.listings:
        content = _list_of(listing)
        if hashlib.md5(content, usedforsecurity=False).hexdigest() + ".dir" == listing.digest:
            path = object_path(contents.cache, listing.digest)
            with replaced_file(path) as partial:
                partial.write_bytes(content)
                partial.chmod(READ_ONLY)
            yield path


def _list_of(listing: Listing) -> bytes:
    """Return the list of a folder's files in DVC's format."""
    files = sorted(path for path in listing.folder.rglob("*") if path.is_file())
    entries = [{"md5": file_md5(path), "relpath": path.relative_to(listing.folder).as_posix()} for path in files]
    return json.dumps(sorted(entries, key=lambda entry: entry["relpath"]), sort_keys=True).encode()


def _fetch_objects(workspace: Workspace, contents: Contents, digests: Sequence[str]) -> Iterator[Path]:
    """Replace damaged files of the cache from the remote, or else remove them from the cache; yield those replaced.

    Raises:
        HistopipeError: nothing replaces them, and the cache may serve other checkouts.
    """
    if not digests:
        return
    aside = {digest: _set_aside(object_path(contents.cache, digest)) for digest in digests}
    outputs = sorted({str(file.path) for file in _files_of(contents, digests)})
    try:
        for start in range(0, len(outputs), TOGETHER):
            run_dvc(workspace, "fetch", *outputs[start : start + TOGETHER])
        lacking = [digest for digest in digests if not _is_cached(contents, digest)]
        if lacking and is_shared(contents.cache, workspace):
            path = object_path(contents.cache, lacking[0])
            raise HistopipeError(
                f"{path} is damaged, no remote has it, and other checkouts may use it: "
                "run `dvc push` in one with an intact copy, then run this again"
            )
        for digest in lacking:
            _keep_links_filled(contents, digest, aside[digest])
    finally:
        for digest, left_over in aside.items():
            _clear_aside(object_path(contents.cache, digest), left_over, is_shared(contents.cache, workspace))
    yield from (object_path(contents.cache, digest) for digest in digests if _is_cached(contents, digest))


def _set_aside(path: Path) -> Path:
    return path.rename(temporary_path(path, "old"))


def _clear_aside(path: Path, aside: Path, shared: bool) -> None:
    """Delete a damaged file that was set aside, unless nothing replaced it and links of other checkouts need it."""
    if shared and not path.exists():
        aside.rename(path)
    aside.unlink(missing_ok=True)


def _keep_links_filled(contents: Contents, digest: str, damaged: Path) -> None:
    """Replace links to a damaged file by the file itself: it may be more useful than nothing."""
    for file in contents.damaged:
        if file.digest == digest and file.path.is_symlink():
            file.path.unlink()
            shutil.copyfile(damaged, file.path)


def _restore_files(workspace: Workspace, paths: Sequence[Path]) -> None:
    """Replace files of the checkout by those of the cache.

    Raises:
        HistopipeError: DVC fails.
    """
    for path in paths:  # otherwise DVC, which compares modification times, would take them for unchanged
        with suppress(FileNotFoundError):
            path.unlink()
    for start in range(0, len(paths), TOGETHER):
        done = run_dvc(workspace, "checkout", "--force", *_names(paths[start : start + TOGETHER]))
        if done.returncode != 0:
            raise HistopipeError(f"DVC could not restore {paths[start]} ({error_line(done)}): run `dvc checkout`")


def _names(paths: Iterable[Path]) -> list[str]:
    return [str(path) for path in paths]
