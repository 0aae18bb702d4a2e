"""The files of a folder on this machine, however deep, those behind links included.

On one's own disk a link is usually meant: people share slides and patches out by links. Links are followed wherever
they lead, but for those that lead to a folder around themselves; a link to nothing is told as a fault.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from histopipe.core.system_files import is_leftover, is_leftover_folder
from histopipe.ingest.archives.limits import USUAL_LIMIT, Allowance, MemberLimit

LEADS_NOWHERE = "link that leads nowhere"
CIRCULAR = "link that leads to a folder around itself"
NOT_A_FILE = "not a file"

_Identity = tuple[int, int]  # of a folder: its disk's number and its own


class FolderFile(NamedTuple):
    """A file of a folder.

    Attributes:
        name: its path in the folder, with forward slashes.
        path: where it lies.
        linked: whether it, or a folder on the way to it, is a link.
        fault: why it can't be read; a link to a folder may be among these.
    """

    name: str
    path: Path
    linked: bool = False
    fault: str | None = None


def files_below(folder: Path, limit: MemberLimit = USUAL_LIMIT) -> list[FolderFile]:
    """List a folder's files, sorted by folder and name, without what operating systems leave behind.

    Raises:
        OSError: a part of it can't be read.
        ArchiveError: there are too many.
    """
    allowance = Allowance(folder, limit)
    files: list[FolderFile] = []
    outside = tuple(_identity(parent.stat()) for parent in folder.resolve().parents)
    pending = [_Folder(os.fspath(folder), "", outside, False)]
    while pending:
        inside = pending.pop()
        found, folders = _listed(inside, (*inside.around, _identity(Path(inside.path).stat())))
        allowance.take_members(len(found) + len(folders))
        files += found
        pending += folders
    return sorted(files, key=lambda file: file.name.split("/"))


class _Folder(NamedTuple):
    """A folder that is to be listed: where it lies, what stands before its files' names, which folders led to it."""

    path: str
    within: str
    around: tuple[_Identity, ...]
    linked: bool


def _listed(folder: _Folder, around: tuple[_Identity, ...]) -> tuple[list[FolderFile], list[_Folder]]:
    files, folders = [], []
    with os.scandir(folder.path) as entries:
        for entry in entries:
            name, linked = f"{folder.within}{entry.name}", folder.linked or entry.is_symlink()
            if is_leftover(entry.name):
                continue
            if not _is_folder(entry):
                files.append(FolderFile(name, Path(entry.path), linked, _fault(entry)))
            elif linked and _identity(entry.stat()) in around:
                files.append(FolderFile(name, Path(entry.path), linked, CIRCULAR))
            elif not is_leftover_folder(entry.name):
                folders.append(_Folder(entry.path, f"{name}/", around, linked))
    return files, folders


def _identity(status: os.stat_result) -> _Identity:
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links in a circle, or to where nobody may look
        return False


def _fault(entry: os.DirEntry[str]) -> str | None:
    try:
        if entry.is_file():
            return None
        return LEADS_NOWHERE if entry.is_symlink() and not Path(entry.path).exists() else NOT_A_FILE
    except OSError:
        return LEADS_NOWHERE
