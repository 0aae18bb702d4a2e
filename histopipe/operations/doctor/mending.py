"""Bring damaged outputs back: `histopipe doctor --mend`.

A damaged file of DVC's cache is replaced by a sound one from the checkout, else from the remote. Where there is neither
it is taken out of the cache, so that `dvc repro` makes it anew rather than trusting it. Then damaged files of the
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
from histopipe.core.files import file_md5, replaced_file, temporary
from histopipe.core.workspace import Workspace
from histopipe.operations.doctor.outputs import Contents, Listing, RecordedFile, object_path, read_contents
from histopipe.operations.gc.cache import is_shared

TOGETHER = 500  # paths named to one command, whose length the system limits
READ_ONLY = 0o444  # as DVC leaves its cache's files


@dataclass(frozen=True)
class Mending:
    """What was brought back, and what could not be.

    Attributes:
        mended: files of the checkout and of DVC's cache that hold again what is recorded.
        lost: files of the checkout of which there is no sound copy; `dvc repro` makes them anew.
    """

    mended: tuple[Path, ...]
    lost: tuple[RecordedFile, ...]


def mend(workspace: Workspace) -> Mending:
    """Replace what is damaged by a sound copy of it; what was changed so that DVC notices stays as it is.

    Raises:
        HistopipeError: DVC can't bring it back, or other checkouts use the damaged file and nothing replaces it.
    """
    contents = read_contents(workspace)
    replaced = [*_refilled(contents), *_relisted(contents)]
    missing = [digest for digest in _damaged_objects(contents) if object_path(contents.cache, digest) not in replaced]
    replaced += _fetched(workspace, contents, missing)
    lost = {file for file in contents.damaged if not object_path(contents.cache, file.digest).is_file()}
    restorable = [file.path for file in contents.damaged if file not in lost]
    _bring_back(workspace, restorable)
    unreplaced = _files_of(contents, [digest for digest in missing if not _is_there(contents, digest)])
    return Mending((*restorable, *replaced), tuple(sorted({*lost, *unreplaced}, key=lambda file: file.path)))


def _damaged_objects(contents: Contents) -> list[str]:
    return [*contents.objects, *(listing.digest for listing in contents.listings)]


def _is_there(contents: Contents, digest: str) -> bool:
    return object_path(contents.cache, digest).is_file()


def _files_of(contents: Contents, digests: Sequence[str]) -> Iterator[RecordedFile]:
    """Files and folders of the checkout that have such digests."""
    yield from (file for file in (*contents.damaged, *contents.sound) if file.digest in digests)
    for listing in contents.listings:
        if listing.digest in digests:
            yield RecordedFile(listing.folder, listing.digest, listing.maker)


def _refilled(contents: Contents) -> Iterator[Path]:
    """Damaged files of the cache, replaced by sound ones of the checkout."""
    sound = {file.digest: file.path for file in contents.sound}
    for digest in contents.objects:
        if digest in sound:
            path = object_path(contents.cache, digest)
            with replaced_file(path) as beside:
                shutil.copyfile(sound[digest], beside)
                beside.chmod(READ_ONLY)
            yield path


def _relisted(contents: Contents) -> Iterator[Path]:
    """Damaged lists of a folder's files, written anew from the folder where it is as it was."""
    for listing in contents.listings:
        content = _list_of(listing)
        if hashlib.md5(content, usedforsecurity=False).hexdigest() + ".dir" == listing.digest:
            path = object_path(contents.cache, listing.digest)
            with replaced_file(path) as beside:
                beside.write_bytes(content)
                beside.chmod(READ_ONLY)
            yield path


def _list_of(listing: Listing) -> bytes:
    """A folder's files as DVC lists them."""
    files = sorted(path for path in listing.folder.rglob("*") if path.is_file())
    entries = [{"md5": file_md5(path), "relpath": path.relative_to(listing.folder).as_posix()} for path in files]
    return json.dumps(sorted(entries, key=lambda entry: entry["relpath"]), sort_keys=True).encode()


def _fetched(workspace: Workspace, contents: Contents, digests: Sequence[str]) -> Iterator[Path]:
    """Damaged files of the cache, replaced from the remote, else taken out of the cache.

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
        lacking = [digest for digest in digests if not _is_there(contents, digest)]
        if lacking and is_shared(contents.cache, workspace):
            path = object_path(contents.cache, lacking[0])
            raise HistopipeError(
                f"{path} is damaged, no remote has it, and other checkouts may use it: "
                "`dvc push` from one that has it sound, then run again"
            )
        for digest in lacking:
            _keep_links_filled(contents, digest, aside[digest])
    finally:
        for digest, left_over in aside.items():
            _clear_aside(object_path(contents.cache, digest), left_over, is_shared(contents.cache, workspace))
    yield from (object_path(contents.cache, digest) for digest in digests if _is_there(contents, digest))


def _set_aside(path: Path) -> Path:
    return path.rename(temporary(path, "old"))


def _clear_aside(path: Path, aside: Path, shared: bool) -> None:
    """Delete a damaged file that was set aside; others' links would lead nowhere if nothing took its place."""
    if shared and not path.exists():
        aside.rename(path)
    aside.unlink(missing_ok=True)


def _keep_links_filled(contents: Contents, digest: str, damaged: Path) -> None:
    """Put a damaged file in the place of links to it: it may be of more use than none."""
    for file in contents.damaged:
        if file.digest == digest and file.path.is_symlink():
            file.path.unlink()
            shutil.copyfile(damaged, file.path)


def _bring_back(workspace: Workspace, paths: Sequence[Path]) -> None:
    """Replace files of the checkout by what the cache holds.

    Raises:
        HistopipeError: DVC couldn't.
    """
    for path in paths:  # or DVC, which goes by the time of change, takes them for sound
        with suppress(FileNotFoundError):
            path.unlink()
    for start in range(0, len(paths), TOGETHER):
        done = run_dvc(workspace, "checkout", "--force", *_names(paths[start : start + TOGETHER]))
        if done.returncode != 0:
            raise HistopipeError(f"DVC could not bring back {paths[start]} ({error_line(done)}): run `dvc checkout`")


def _names(paths: Iterable[Path]) -> list[str]:
    return [str(path) for path in paths]
