"""Sources on this machine: an archive, or a folder of files."""

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
from histopipe.ingest.sources.digests import compute_archive_digest
from histopipe.ingest.sources.packing import Listing, list_folder, pack
from histopipe.ingest.sources.progress import show_byte_progress
from histopipe.ingest.sources.record import Source, SourceRecord
from histopipe.ingest.sources.wanted import SourceSpec, make_archive_name

_CHUNK = 2**20
_log = logging.getLogger(__name__)


def open_local(spec: SourceSpec) -> Source:
    """Return the source for the archive or folder that `params.yaml` names.

    Raises:
        SourceError: the path doesn't exist, can't be read, or is in a folder that the pipeline writes.
    """
    key = spec.key("source")
    if "://" in spec.source:
        scheme = spec.source.partition("://")[0]
        raise SourceError(
            f"{scheme}:// is not read directly: import it with `dvc import-url` and set {key} to its path"
        )
    path = spec.path(spec.source)
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        remedy = f"set {key} to an archive, a folder, a URL, kaggle or synthetic"
        raise SourceError(f"{path} is missing: {remedy}") from None
    except OSError as problem:
        raise SourceError(f"{path} can't be read ({problem.strerror}): grant access or change {key}") from None
    _check_no_overlap(path, spec)
    return ExtractedFolder(spec, path) if path.is_dir() else ArchiveFile(spec, path)


def _check_no_overlap(path: Path, spec: SourceSpec) -> None:
    """Check that a source is outside the raw folder and doesn't contain it.

    DVC empties the raw folder before a fetch, so a source in it would be lost; a folder around it would be packed into
    itself.
    """
    raw, source = spec.workspace.raw(spec.dataset).resolve(), path.resolve()
    if source.is_relative_to(raw) or raw.is_relative_to(source):
        raise SourceError(
            f"{path} overlaps {spec.workspace.raw(spec.dataset)}, which fetch replaces: "
            f"set {spec.key('source')} to a path outside it"
        )


def _normalise_path(spec: SourceSpec) -> str:
    """Return the normalised path of the source, not made absolute, so that other clones get the same record."""
    return Path(os.path.normpath(spec.source)).as_posix()


@dataclass(frozen=True)
class ArchiveFile:
    """A zip or tar archive at a path."""

    spec: SourceSpec
    path: Path

    def locate(self) -> SourceRecord:
        """Return a record with the archive's SHA-256.

        Raises:
            SourceError: the file is empty, truncated, no archive, or doesn't have the required `checksum`.
        """
        try:
            check_archive(self.path, str(self.path))
            digest = compute_archive_digest(self.path, self.spec.workspace.digest(self.spec.dataset))
        except OSError as problem:
            raise SourceError(f"{self.path} can't be read ({problem.strerror}): check the disk it is on") from None
        check_digest(digest, self.spec, str(self.path))
        return SourceRecord(
            kind="archive",
            source=self.spec.display_source,
            resolved=_normalise_path(self.spec),
            name=make_archive_name(self.path.name, self.spec.dataset),
            size=self.path.stat().st_size,
            fingerprint={"sha256": digest},
        )

    def estimate_patches(self) -> int | None:
        """Estimate the number of patches in a zip; None for a tar."""
        return count_zipped_patches(self.path, self.spec)

    def fetch(self, record: SourceRecord, target: Path) -> None:
        """Copy the archive. A link won't do, because DVC makes tracked files read-only.

        Raises:
            SourceError: the archive isn't the one that `record` describes.
        """
        digest = hashlib.sha256()
        with (
            self.path.open("rb") as stream,
            target.open("wb") as copy,
            show_byte_progress(self.path.stat().st_size, self.spec.dataset) as bar,
        ):
            while chunk := stream.read(_CHUNK):
                copy.write(chunk)
                digest.update(chunk)
                bar.update(len(chunk))
        if record.fingerprint != {"sha256": digest.hexdigest()}:
            raise _make_changed_error(self.path, self.spec)
        check_digest(digest.hexdigest(), self.spec, str(self.path))


@dataclass(frozen=True)
class ExtractedFolder:
    """A folder of files, which fetch packs into one archive."""

    spec: SourceSpec
    path: Path

    def locate(self) -> SourceRecord:
        """Return a record with a digest of the names, sizes and modification times of the files.

        Reading the files would take minutes.

        Raises:
            SourceError: the folder is empty, or holds only an archive.
            ArchiveError: the folder holds too many files.
        """
        listing = self._listing
        if listing.skipped:
            _log.warning("%s: %d files are skipped (%s)", self.path, len(listing.skipped), listing.skipped[0])
        return SourceRecord(
            kind="folder",
            source=self.spec.display_source,
            resolved=_normalise_path(self.spec),
            name=make_archive_name(f"{self.path.resolve().name}.zip", self.spec.dataset),
            size=listing.packed_size,
            fingerprint={"files": len(listing.files), "digest": listing.digest},
        )

    def estimate_patches(self) -> int | None:
        """Estimate the number of patches in the folder; None if it holds zips."""
        return count_patches((file.name for file in self._listing.files), self.spec)

    def fetch(self, record: SourceRecord, target: Path) -> None:
        """Pack the folder into one zip archive.

        Raises:
            SourceError: the folder isn't the one that `record` describes, or changes while it is packed.
        """
        listing = self._listing
        if record.fingerprint.get("digest") != listing.digest:
            raise _make_changed_error(self.path, self.spec)
        pack(listing, target, self.spec.dataset)
        if list_folder(self.path, self._limit).digest != listing.digest:
            raise _make_changed_error(self.path, self.spec)

    @property
    def _limit(self) -> MemberLimit:
        return MemberLimit(self.spec.params.ingest.max_members)

    @cached_property
    def _listing(self) -> Listing:
        key = self.spec.key("source")
        if self.spec.block.checksum is not None:
            raise SourceError(f"{self.spec.key('checksum')} is for archives and {self.path} is a folder: remove it")
        listing = list_folder(self.path, self._limit)
        if not listing.files:
            raise SourceError(f"{self.path} is an empty folder: set {key} to an archive or a folder of patches")
        if len(listing.files) == 1 and listing.files[0].name.lower().endswith((".zip", ".tar", ".gz", ".tgz")):
            inside = self.path / listing.files[0].name
            raise SourceError(f"{self.path} holds only an archive: set {key} to {inside}")
        return listing


def _make_changed_error(path: Path, spec: SourceSpec) -> SourceError:
    return SourceError(f"{path} changed since it was located: run `histopipe locate {spec.dataset}` again")
