"""The archive as one file: is it one at all, which one is it, how much does it hold."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from histopipe.core.errors import SourceError
from histopipe.core.system_files import is_leftover, leftovers_among
from histopipe.ingest.archives.limits import MemberLimit
from histopipe.ingest.archives.reading import DAMAGE, is_tar, is_zip, list_zip
from histopipe.ingest.sources.wanted import MANIFEST_NAME, Wanted

_EMPTY_ZIP_BYTES = 22  # a zip's end record and nothing before it


def archive_in(folder: Path) -> Path:
    """The one archive in a raw folder; the manifest beside it doesn't count.

    Raises:
        SourceError: there is none, or there are several.
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
        raise SourceError(f"{folder} holds {len(files)} files ({names}): leave the one archive only")
    return files[0]


def check_archive(path: Path, shown: str) -> None:
    """Check, without reading it through, that a file is a zip or tar archive with something in it.

    Args:
        path: the file.
        shown: what messages call it.

    Raises:
        SourceError: it is empty, truncated or no archive.
    """
    size = path.stat().st_size
    if size == 0:
        raise SourceError(f"{shown} is empty (0 bytes): download or copy the archive again")
    with path.open("rb") as stream:
        start = stream.read(16)
    if is_zip(path):
        if size <= _EMPTY_ZIP_BYTES:
            raise SourceError(f"{shown} is a zip archive without any files: download or copy the archive again")
    elif start.startswith(b"PK"):
        raise SourceError(f"{shown} is a truncated zip archive (its end is missing): download or copy it again")
    elif not is_tar(path):
        raise SourceError(f"{shown} is neither a zip nor a tar archive (it starts with {start!r}): name the archive")


def demanded_checksum(wanted: Wanted) -> dict[str, str]:
    """The checksum of `params.yaml`, for a fingerprint: one set later has the archive fetched and checked."""
    return {"checksum": wanted.block.checksum} if wanted.block.checksum else {}


def check_digest(found: str, wanted: Wanted, shown: str) -> None:
    """Compare an archive's SHA-256 with the one that `params.yaml` demands, if it does.

    Raises:
        SourceError: they differ.
    """
    demanded = wanted.block.checksum
    if demanded is not None and demanded != f"sha256:{found}":
        raise SourceError(
            f"{shown} has sha256:{found}, not the {wanted.key('checksum')} of params.yaml: "
            "get the right archive or correct the checksum"
        )


def count_patches(names: Iterable[str], wanted: Wanted) -> int | None:
    """About how many patches files with these names are; built-in archives repeat some in another folder.

    None where archives are among them, which would have to be opened.
    """
    files = [name for name in names if not name.endswith("/")]
    left = leftovers_among(files)
    files = [name for name in files if name not in left] if left else files
    if any(name.lower().endswith(".zip") for name in files):
        return None
    return len({name.rpartition("/")[2] for name in files}) if wanted.layout else len(files)


def count_zipped_patches(path: Path, wanted: Wanted) -> int | None:
    """The same for a zip archive; None for a tar, which would have to be read through.

    Raises:
        SourceError: a zip whose directory can't be read.
        ArchiveError: a zip of too many members.
    """
    if not is_zip(path):
        return None
    try:
        members = list_zip(path, MemberLimit(wanted.params.ingest.max_members))
        return count_patches((member.name for member in members), wanted)
    except DAMAGE as problem:
        raise SourceError(f"{path} is a damaged zip archive ({problem}): download or copy it again") from None
