"""Checks of an archive file: its format, its checksum and the number of its patches."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from histopipe.core.errors import SourceError
from histopipe.core.system_files import is_leftover, leftovers_among
from histopipe.ingest.archives.limits import MemberLimit
from histopipe.ingest.archives.reading import DAMAGE, is_tar, is_zip, list_zip
from histopipe.ingest.sources.wanted import MANIFEST_NAME, SourceSpec

_EMPTY_ZIP_BYTES = 22  # a zip's end record and nothing before it


def find_archive(folder: Path) -> Path:
    """Return the path of the one archive in a raw folder; the manifest next to it doesn't count.

    Raises:
        SourceError: the folder holds no archive or several files.
    """
    files = sorted(
        path
        for path in folder.glob("*")
        if path.is_file() and path.name != MANIFEST_NAME and not is_leftover(path.name)
    )
    if not files:
        raise SourceError(f"{folder} holds no archive: run `dvc repro fetch@{folder.name}`")
    if len(files) > 1:
        names = ", ".join(path.name for path in files[:3])
        raise SourceError(f"{folder} holds {len(files)} files ({names}): keep only the archive")
    return files[0]


def check_archive(path: Path, display_name: str) -> None:
    """Check, without reading all of it, that a file is a zip or tar archive that isn't empty.

    Args:
        path: path of the file.
        display_name: name of the file in messages.

    Raises:
        SourceError: the file is empty, truncated or no archive.
    """
    size = path.stat().st_size
    if size == 0:
        raise SourceError(f"{display_name} is empty (0 bytes): download or copy the archive again")
    with path.open("rb") as stream:
        start = stream.read(16)
    if is_zip(path):
        if size <= _EMPTY_ZIP_BYTES:
            raise SourceError(f"{display_name} is a zip archive without any files: download or copy the archive again")
    elif start.startswith(b"PK"):
        raise SourceError(f"{display_name} is a truncated zip archive (its end is missing): download or copy it again")
    elif not is_tar(path):
        raise SourceError(
            f"{display_name} is neither a zip nor a tar archive (it starts with {start!r}): name the archive"
        )


def get_checksum_entry(spec: SourceSpec) -> dict[str, str]:
    """Return the checksum in `params.yaml` as part of a fingerprint.

    A checksum that is added later changes the fingerprint, so the archive is fetched again and checked.
    """
    return {"checksum": spec.block.checksum} if spec.block.checksum else {}


def check_digest(digest: str, spec: SourceSpec, display_name: str) -> None:
    """Check that the SHA-256 of an archive is the checksum in `params.yaml`, if there is one.

    Raises:
        SourceError: the two differ.
    """
    required = spec.block.checksum
    if required is not None and required != f"sha256:{digest}":
        raise SourceError(
            f"{display_name} has sha256:{digest}, not the {spec.key('checksum')} of params.yaml: "
            "get the right archive or correct the checksum"
        )


def count_patches(names: Iterable[str], spec: SourceSpec) -> int | None:
    """Estimate the number of patches among files with these names.

    Archives of built-in data sets repeat some files in another folder, so file names are counted once.

    Returns:
        The number; None if there are archives among the files, which would have to be opened.
    """
    files = [name for name in names if not name.endswith("/")]
    leftovers = leftovers_among(files)
    files = [name for name in files if name not in leftovers] if leftovers else files
    if any(name.lower().endswith(".zip") for name in files):
        return None
    return len({name.rpartition("/")[2] for name in files}) if spec.definition else len(files)


def count_zipped_patches(path: Path, spec: SourceSpec) -> int | None:
    """Estimate the number of patches in an archive.

    Returns:
        The number; None for a tar, which would have to be read completely.

    Raises:
        SourceError: the directory of the zip can't be read.
        ArchiveError: the zip has too many members.
    """
    if not is_zip(path):
        return None
    try:
        members = list_zip(path, MemberLimit(spec.params.ingest.max_members))
        return count_patches((member.name for member in members), spec)
    except DAMAGE as problem:
        raise SourceError(f"{path} is a damaged zip archive ({problem}): download or copy it again") from None
