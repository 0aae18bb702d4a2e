"""Packing a folder of loose patches into one archive, the same bytes for the same files."""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from histopipe.errors import SourceError
from histopipe.sources.progress import byte_progress

_EPOCH = (1980, 1, 1, 0, 0, 0)  # a zip's earliest time: real ones would change the bytes from copy to copy
_HEADER_BYTES = 30 + 46  # a zip keeps each name twice, once before the content and once in its directory


@dataclass(frozen=True, order=True)
class ListedFile:
    """A file of the folder; `name` is its path in it, with forward slashes."""

    name: str
    size: int
    modified: int


@dataclass(frozen=True)
class Listing:
    """The files of a folder, sorted by name, and what can't be packed and why."""

    folder: Path
    files: tuple[ListedFile, ...]
    left_out: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names, sizes and modification times."""
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(f"{file.name}\0{file.size}\0{file.modified}\n".encode())
        return digest.hexdigest()

    @property
    def packed_size(self) -> int:
        """About what the packed archive takes."""
        return sum(file.size + _HEADER_BYTES + 2 * len(file.name.encode()) for file in self.files)


def list_folder(folder: Path) -> Listing:
    """List a folder's files, however deep.

    Symbolic links to folders are not entered and links to files outside aren't followed: a folder that came
    from elsewhere must not pull in whatever it points at.

    Raises:
        SourceError: a part of it can't be read.
    """
    left_out: list[str] = []
    try:
        files = tuple(sorted(_walk(folder, left_out)))
    except OSError as problem:
        raise SourceError(f"{problem.filename} can't be read ({problem.strerror}): allow it or remove it") from None
    return Listing(folder, files, tuple(left_out))


def _walk(folder: Path, left_out: list[str]) -> Iterator[ListedFile]:
    root = os.path.realpath(folder)
    pending = [root]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                    continue
                name = entry.path[len(root) :].strip(os.sep).replace(os.sep, "/")
                if reason := _unfit(entry, name, root):
                    left_out.append(f"{name!r}: {reason}")
                else:
                    status = entry.stat()
                    yield ListedFile(name, status.st_size, status.st_mtime_ns)


def _unfit(entry: os.DirEntry[str], name: str, root: str) -> str | None:
    """Why an entry can't be packed; None where it can."""
    if entry.is_symlink() and not os.path.realpath(entry.path).startswith(root + os.sep):
        return "a link that leads outside"
    if not entry.is_file():
        return "not a file"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "a name that isn't UTF-8"
    return None


def pack(listing: Listing, target: Path, label: str) -> None:
    """Write the listed files into one uncompressed zip archive; patches are compressed images already.

    Args:
        listing: the files.
        target: the archive to write.
        label: what the progress bar calls it.
    """
    with (
        zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive,
        byte_progress(sum(file.size for file in listing.files), label) as bar,
    ):
        for file in listing.files:
            entry = zipfile.ZipInfo(file.name, _EPOCH)
            entry.file_size = file.size  # decides between the short and the long header
            entry.create_system = 3  # the same on every system
            entry.external_attr = 0o644 << 16
            with (listing.folder / file.name).open("rb") as stream, archive.open(entry, "w") as member:
                shutil.copyfileobj(stream, member)
            bar.update(file.size)
