"""Packing of a folder of images into one archive; the same files give the same bytes."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from histopipe.core.errors import SourceError
from histopipe.ingest.archives.limits import DEFAULT_LIMIT, MemberLimit
from histopipe.ingest.folders import BROKEN_LINK, FolderFile, list_files
from histopipe.ingest.sources.progress import show_byte_progress

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time in a zip; real times would give each copy other bytes
IMAGES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"})
_HEADER_BYTES = 30 + 46  # a zip has each name twice, before the content and in its directory


@dataclass(frozen=True)
class ListedFile:
    """A file in the folder.

    Attributes:
        name: path relative to the folder, with forward slashes.
        size: size in bytes.
        modified: modification time in nanoseconds.
        target: target of a broken link; None for other files.
    """

    name: str
    size: int
    modified: int
    target: str | None = None


@dataclass(frozen=True)
class Listing:
    """The files of a folder.

    Attributes:
        folder: path of the folder.
        files: the files to pack, sorted by name.
        skipped: name and reason of each file that can't be packed.
    """

    folder: Path
    files: tuple[ListedFile, ...]
    skipped: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> str:
        """Compute the SHA-256 of names, sizes and modification times."""
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(f"{file.name}\0{file.size}\0{file.modified}\n".encode())
            if file.target is not None:
                digest.update(f"{file.target}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    @property
    def packed_size(self) -> int:
        """Estimate the size of the packed archive in bytes."""
        return sum(file.size + _HEADER_BYTES + 2 * len(file.name.encode()) for file in self.files)


def list_folder(folder: Path, limit: MemberLimit = DEFAULT_LIMIT) -> Listing:
    """List the files in a folder and its subfolders, without what operating systems leave behind.

    Links are followed, also those to folders. A link to a file outside the folder is followed only if it is an image,
    since a folder from elsewhere must not import arbitrary files. A broken link is listed, so that ingest counts it.

    Raises:
        SourceError: a file or subfolder can't be read.
        ArchiveError: there are too many files.
    """
    skipped: list[str] = []
    root = os.path.realpath(folder)
    try:
        files = [_list_file(file, root, skipped) for file in list_files(Path(root), limit)]
    except OSError as problem:
        raise SourceError(f"{problem.filename} can't be read ({problem.strerror}): grant access or remove it") from None
    return Listing(folder, tuple(sorted(filter(None, files), key=lambda file: file.name)), tuple(skipped))


def _list_file(file: FolderFile, root: str, skipped: list[str]) -> ListedFile | None:
    """Return a file to pack; if it can't be packed, add it to `skipped` and return None."""
    if reason := _find_skip_reason(file, root):
        skipped.append(f"{file.name!r}: {reason}")
        return None
    if file.fault:
        target = str(file.path.readlink())
        return ListedFile(file.name, len(os.fsencode(target)), file.path.lstat().st_mtime_ns, target)
    status = file.path.stat()
    return ListedFile(file.name, status.st_size, status.st_mtime_ns)


def _find_skip_reason(file: FolderFile, root: str) -> str | None:
    """Return why a file can't be packed; None if it can."""
    try:
        file.name.encode()
    except UnicodeEncodeError:
        return "a name that isn't UTF-8"
    if file.fault == BROKEN_LINK:
        return None
    if file.fault:
        return file.fault
    real = os.path.realpath(file.path) if file.linked else root + os.sep
    if not real.startswith(root.rstrip(os.sep) + os.sep) and Path(real).suffix.lower() not in IMAGES:
        return "a link to a file outside the folder that is not an image"
    return None


def pack(listing: Listing, target: Path, label: str) -> None:
    """Write the listed files into one zip archive, uncompressed because images are compressed already.

    Args:
        listing: the files.
        target: path of the archive.
        label: label of the progress bar.
    """
    with (
        zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive,
        show_byte_progress(sum(file.size for file in listing.files), label) as bar,
    ):
        for file in listing.files:
            entry = zipfile.ZipInfo(file.name, _EPOCH)
            entry.file_size = file.size  # selects the normal or the zip64 header
            entry.create_system = 3  # the same on every system
            entry.external_attr = 0o644 << 16
            if file.target is not None:
                entry.external_attr = (stat.S_IFLNK | 0o777) << 16
                archive.writestr(entry, os.fsencode(file.target))
                continue
            with (listing.folder / file.name).open("rb") as stream, archive.open(entry, "w") as member:
                shutil.copyfileobj(stream, member)
            bar.update(file.size)
