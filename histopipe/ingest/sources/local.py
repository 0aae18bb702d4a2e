"""An archive on this machine, or a folder that was already extracted."""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from histopipe.core.errors import SourceError
from histopipe.ingest.archives.limits import MemberLimit
from histopipe.ingest.sources.archive_file import check_archive, check_digest, count_patches, count_zipped_patches
from histopipe.ingest.sources.digests import archive_digest
from histopipe.ingest.sources.packing import Listing, list_folder, pack
from histopipe.ingest.sources.progress import byte_progress
from histopipe.ingest.sources.record import Source, SourceRecord
from histopipe.ingest.sources.wanted import Wanted, archive_name

_CHUNK = 2**20
_log = logging.getLogger(__name__)


def open_local(wanted: Wanted) -> Source:
    """The archive or folder at the path that `params.yaml` names.

    Raises:
        SourceError: nothing is there, it can't be read, or the pipeline itself writes there.
    """
    key = wanted.key("source")
    if "://" in wanted.source:
        scheme = wanted.source.partition("://")[0]
        raise SourceError(
            f"{scheme}:// is not read directly: bring it here with `dvc import-url` and set {key} to its path"
        )
    path = wanted.path(wanted.source)
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        remedy = f"set {key} to an archive, a folder, a URL, kaggle or synthetic"
        raise SourceError(f"{path} is missing: {remedy}") from None
    except OSError as problem:
        raise SourceError(f"{path} can't be read ({problem.strerror}): allow it or change {key}") from None
    _check_apart(path, wanted)
    return ExtractedFolder(wanted, path) if path.is_dir() else ArchiveFile(wanted, path)


def _check_apart(path: Path, wanted: Wanted) -> None:
    """DVC empties `data/raw/` before a fetch: a source in it would be lost, one around it swallow itself."""
    raw, source = wanted.workspace.raw(wanted.dataset).resolve(), path.resolve()
    if source.is_relative_to(raw) or raw.is_relative_to(source):
        raise SourceError(
            f"{path} overlaps {wanted.workspace.raw(wanted.dataset)}, which fetch replaces: "
            f"set {wanted.key('source')} to a place outside it"
        )


def _resolved(wanted: Wanted) -> str:
    """The path as written, tidied; not made absolute, since clones elsewhere should agree on the record."""
    return Path(os.path.normpath(wanted.source)).as_posix()


@dataclass(frozen=True)
class ArchiveFile:
    """A zip or tar archive at a path."""

    wanted: Wanted
    path: Path

    def locate(self) -> SourceRecord:
        """Describe the archive by its SHA-256.

        Raises:
            SourceError: it is empty, truncated, no archive, or not the one that `checksum` demands.
        """
        try:
            check_archive(self.path, str(self.path))
            digest = archive_digest(self.path, self.wanted.workspace.digest(self.wanted.dataset))
        except OSError as problem:
            raise SourceError(f"{self.path} can't be read ({problem.strerror}): check the disk it is on") from None
        check_digest(digest, self.wanted, str(self.path))
        return SourceRecord(
            kind="archive",
            source=self.wanted.shown,
            resolved=_resolved(self.wanted),
            name=archive_name(self.path.name, self.wanted.dataset),
            size=self.path.stat().st_size,
            fingerprint={"sha256": digest},
        )

    def patches(self) -> int | None:
        """How many images a zip holds."""
        return count_zipped_patches(self.path, self.wanted)

    def bring(self, record: SourceRecord, target: Path) -> None:
        """Copy the archive. Not a link: DVC makes what it tracks read-only, and the original isn't ours.

        Raises:
            SourceError: the copy isn't what `record` describes.
        """
        digest = hashlib.sha256()
        with (
            self.path.open("rb") as stream,
            target.open("wb") as copy,
            byte_progress(self.path.stat().st_size, self.wanted.dataset) as bar,
        ):
            while chunk := stream.read(_CHUNK):
                copy.write(chunk)
                digest.update(chunk)
                bar.update(len(chunk))
        if record.fingerprint != {"sha256": digest.hexdigest()}:
            raise _changed(self.path, self.wanted)
        check_digest(digest.hexdigest(), self.wanted, str(self.path))


@dataclass(frozen=True)
class ExtractedFolder:
    """A folder of loose files, which fetch packs into one archive."""

    wanted: Wanted
    path: Path

    def locate(self) -> SourceRecord:
        """Describe the folder by the names, sizes and times of its files: reading all would take minutes.

        Raises:
            SourceError: it is empty, or holds nothing but an archive.
            ArchiveError: it holds too many files.
        """
        listing = self._listing
        if listing.left_out:
            _log.warning("%s: %d files are left out (%s)", self.path, len(listing.left_out), listing.left_out[0])
        return SourceRecord(
            kind="folder",
            source=self.wanted.shown,
            resolved=_resolved(self.wanted),
            name=archive_name(f"{self.path.resolve().name}.zip", self.wanted.dataset),
            size=listing.packed_size,
            fingerprint={"files": len(listing.files), "digest": listing.digest},
        )

    def patches(self) -> int | None:
        """How many files the folder holds."""
        return count_patches((file.name for file in self._listing.files), self.wanted)

    def bring(self, record: SourceRecord, target: Path) -> None:
        """Pack the folder into one zip archive.

        Raises:
            SourceError: the folder isn't, or doesn't stay, what `record` describes.
        """
        listing = self._listing
        if record.fingerprint.get("digest") != listing.digest:
            raise _changed(self.path, self.wanted)
        pack(listing, target, self.wanted.dataset)
        if list_folder(self.path, self._limit).digest != listing.digest:
            raise _changed(self.path, self.wanted)

    @property
    def _limit(self) -> MemberLimit:
        return MemberLimit(self.wanted.params.ingest.max_members)

    @cached_property
    def _listing(self) -> Listing:
        key = self.wanted.key("source")
        if self.wanted.block.checksum is not None:
            raise SourceError(f"{self.wanted.key('checksum')} is for archives and {self.path} is a folder: remove it")
        listing = list_folder(self.path, self._limit)
        if not listing.files:
            raise SourceError(f"{self.path} is an empty folder: set {key} to an archive or a folder of patches")
        if len(listing.files) == 1 and listing.files[0].name.lower().endswith((".zip", ".tar", ".gz", ".tgz")):
            inside = self.path / listing.files[0].name
            raise SourceError(f"{self.path} holds only an archive: set {key} to {inside}")
        return listing


def _changed(path: Path, wanted: Wanted) -> SourceError:
    return SourceError(f"{path} changed since it was located: run `histopipe locate {wanted.dataset}` again")
