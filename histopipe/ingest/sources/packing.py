"""Packing a folder of loose patches into one archive, the same bytes for the same files."""

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
from histopipe.ingest.archives.limits import USUAL_LIMIT, MemberLimit
from histopipe.ingest.folders import LEADS_NOWHERE, FolderFile, files_below
from histopipe.ingest.sources.progress import byte_progress

_EPOCH = (1980, 1, 1, 0, 0, 0)  # a zip's earliest time: real ones would change the bytes from copy to copy
IMAGES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"})
_HEADER_BYTES = 30 + 46  # a zip keeps each name twice, once before the content and once in its directory


@dataclass(frozen=True)
class ListedFile:
    """A file of the folder.

    Attributes:
        name: its path in the folder, with forward slashes.
        size: in bytes.
        modified: when, in nanoseconds.
        target: where it leads, if it is a link to nothing.
    """

    name: str
    size: int
    modified: int
    target: str | None = None


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
            if file.target is not None:
                digest.update(f"{file.target}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    @property
    def packed_size(self) -> int:
        """About what the packed archive takes."""
        return sum(file.size + _HEADER_BYTES + 2 * len(file.name.encode()) for file in self.files)


def list_folder(folder: Path, limit: MemberLimit = USUAL_LIMIT) -> Listing:
    """List a folder's files, however deep, without what operating systems leave behind.

    Links are followed, to folders too. Of files outside, only images are taken: a folder that came from elsewhere must
    not pull in whatever it points at. A link to nothing is listed as such, for ingest to count.

    Raises:
        SourceError: a part of it can't be read.
        ArchiveError: there are too many files.
    """
    left_out: list[str] = []
    root = os.path.realpath(folder)
    try:
        listed = [_listed(file, root, left_out) for file in files_below(Path(root), limit)]
    except OSError as problem:
        raise SourceError(f"{problem.filename} can't be read ({problem.strerror}): allow it or remove it") from None
    return Listing(folder, tuple(sorted(filter(None, listed), key=lambda file: file.name)), tuple(left_out))


def _listed(file: FolderFile, root: str, left_out: list[str]) -> ListedFile | None:
    """A file as it is packed; None where it can't be."""
    if reason := _unfit(file, root):
        left_out.append(f"{file.name!r}: {reason}")
        return None
    if file.fault:
        target = str(file.path.readlink())
        return ListedFile(file.name, len(os.fsencode(target)), file.path.lstat().st_mtime_ns, target)
    status = file.path.stat()
    return ListedFile(file.name, status.st_size, status.st_mtime_ns)


def _unfit(file: FolderFile, root: str) -> str | None:
    """Why a file can't be packed; None where it can."""
    try:
        file.name.encode()
    except UnicodeEncodeError:
        return "a name that isn't UTF-8"
    if file.fault == LEADS_NOWHERE:
        return None
    if file.fault:
        return file.fault
    real = os.path.realpath(file.path) if file.linked else root + os.sep
    if not real.startswith(root.rstrip(os.sep) + os.sep) and Path(real).suffix.lower() not in IMAGES:
        return "a link that leads outside, and not to an image"
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
            if file.target is not None:
                entry.external_attr = (stat.S_IFLNK | 0o777) << 16
                archive.writestr(entry, os.fsencode(file.target))
                continue
            with (listing.folder / file.name).open("rb") as stream, archive.open(entry, "w") as member:
                shutil.copyfileobj(stream, member)
            bar.update(file.size)
