"""Recursive listing of a folder on this machine, with links followed.

People organise slides and patches on their own disks with links, so links are followed wherever they lead. The
exception is a link to a folder that contains the link itself. A broken link is listed with a fault.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from histopipe.core.system_files import is_leftover, is_leftover_folder
from histopipe.ingest.archives.limits import DEFAULT_LIMIT, MemberLimit, ReadBudget

BROKEN_LINK = "broken link"
CIRCULAR = "link to a folder that contains it"
NOT_A_FILE = "not a file"

_Identity = tuple[int, int]  # device and inode number of a folder


class FolderFile(NamedTuple):
    """A file in a folder.

    Attributes:
        name: path relative to the folder, with forward slashes.
        path: path on disk.
        linked: whether the file, or a folder on the way to it, is a link.
        fault: why the file can't be read. A circular link to a folder is listed as a file with a fault.
    """

    name: str
    path: Path
    linked: bool = False
    fault: str | None = None


def list_files(folder: Path, limit: MemberLimit = DEFAULT_LIMIT) -> list[FolderFile]:
    """List the files in a folder and its subfolders, sorted by path.

    Files that operating systems leave behind, such as `.DS_Store`, are skipped.

    Raises:
        OSError: a file or subfolder can't be read.
        ArchiveError: the folder holds more files than `limit` allows.

    Example:
        >>> [file.name for file in list_files(Path("slides"))]
        ['a/1.png', 'b/1.png']
    """
    budget = ReadBudget(folder, limit)
    files: list[FolderFile] = []
    parents = tuple(_get_identity(parent.stat()) for parent in folder.resolve().parents)
    pending = [_Folder(os.fspath(folder), "", parents, False)]
    while pending:
        current = pending.pop()
        entries, subfolders = _scan(current, (*current.ancestors, _get_identity(Path(current.path).stat())))
        budget.count_members(len(entries) + len(subfolders))
        files += entries
        pending += subfolders
    return sorted(files, key=lambda file: file.name.split("/"))


class _Folder(NamedTuple):
    """A folder still to be scanned.

    Attributes:
        path: path on disk.
        prefix: what the names of its files start with: empty, or the folder's relative path and a slash.
        ancestors: the folders that contain it.
        linked: whether it was reached through a link.
    """

    path: str
    prefix: str
    ancestors: tuple[_Identity, ...]
    linked: bool


def _scan(folder: _Folder, ancestors: tuple[_Identity, ...]) -> tuple[list[FolderFile], list[_Folder]]:
    files, folders = [], []
    with os.scandir(folder.path) as entries:
        for entry in entries:
            name, linked = f"{folder.prefix}{entry.name}", folder.linked or entry.is_symlink()
            if is_leftover(entry.name):
                continue
            if not _is_folder(entry):
                files.append(FolderFile(name, Path(entry.path), linked, _find_fault(entry)))
            elif linked and _get_identity(entry.stat()) in ancestors:
                files.append(FolderFile(name, Path(entry.path), linked, CIRCULAR))
            elif not is_leftover_folder(entry.name):
                folders.append(_Folder(entry.path, f"{name}/", ancestors, linked))
    return files, folders


def _get_identity(status: os.stat_result) -> _Identity:
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle, or to a folder without read permission
        return False


def _find_fault(entry: os.DirEntry[str]) -> str | None:
    try:
        if entry.is_file():
            return None
        return BROKEN_LINK if entry.is_symlink() and not Path(entry.path).exists() else NOT_A_FILE
    except OSError:
        return BROKEN_LINK
