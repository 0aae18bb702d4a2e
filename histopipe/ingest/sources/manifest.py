"""The manifest of a data set, which `locate` records and `fetch` copies next to the archive."""

from __future__ import annotations

import shutil
from pathlib import Path

from histopipe.core.errors import SourceError
from histopipe.core.files import file_digest
from histopipe.ingest.sources.record import SourceRecord
from histopipe.ingest.sources.wanted import MANIFEST_NAME, Wanted


def describe_manifest(wanted: Wanted) -> dict[str, str] | None:
    """Return the path and SHA-256 of the data set's manifest; None if it has none.

    Raises:
        SourceError: the manifest can't be read.
    """
    manifest = wanted.block.manifest
    if manifest is None:
        return None
    path = wanted.path(manifest)
    try:
        if not path.is_file():
            raise SourceError(
                f"{path} is missing: set {wanted.key('manifest')} to a CSV file (file,case_id,label[,x,y])"
            )
        return {"path": manifest, "sha256": file_digest(path)}
    except OSError as problem:
        raise SourceError(f"{path} can't be read ({problem.strerror}): check {wanted.key('manifest')}") from None


def copy_manifest(wanted: Wanted, record: SourceRecord, folder: Path) -> None:
    """Copy the manifest, if the data set has one, into `folder`.

    Raises:
        SourceError: the manifest is missing, or differs from the one that was located.
    """
    description = describe_manifest(wanted)
    if description is not None:
        shutil.copyfile(wanted.path(description["path"]), folder / MANIFEST_NAME)
        description["sha256"] = file_digest(folder / MANIFEST_NAME)
    if description != record.manifest:
        raise SourceError(
            f"{wanted.key('manifest')} changed since it was located: run `histopipe locate {wanted.dataset}` again"
        )
