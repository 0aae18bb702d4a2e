"""The manifest of a data set, which `locate` records and `fetch` copies next to the archive."""

from __future__ import annotations

import shutil
from pathlib import Path

from histopipe.core.errors import SourceError
from histopipe.core.files import file_digest
from histopipe.ingest.sources.record import SourceRecord
from histopipe.ingest.sources.wanted import MANIFEST_NAME, SourceSpec


def describe_manifest(spec: SourceSpec) -> dict[str, str] | None:
    """Return the path and SHA-256 of the data set's manifest; None if it has none.

    Raises:
        SourceError: the manifest can't be read.
    """
    manifest = spec.block.manifest
    if manifest is None:
        return None
    path = spec.path(manifest)
    try:
        if not path.is_file():
            raise SourceError(f"{path} is missing: set {spec.key('manifest')} to a CSV file (file,case_id,label[,x,y])")
        return {"path": manifest, "sha256": file_digest(path)}
    except OSError as problem:
        raise SourceError(f"{path} can't be read ({problem.strerror}): check {spec.key('manifest')}") from None


def copy_manifest(spec: SourceSpec, record: SourceRecord, folder: Path) -> None:
    """Copy the manifest, if the data set has one, into `folder`.

    Raises:
        SourceError: the manifest is missing, or differs from the one that was located.
    """
    description = describe_manifest(spec)
    if description is not None:
        shutil.copyfile(spec.path(description["path"]), folder / MANIFEST_NAME)
        description["sha256"] = file_digest(folder / MANIFEST_NAME)
    if description != record.manifest:
        raise SourceError(
            f"{spec.key('manifest')} changed since it was located: run `histopipe locate {spec.dataset}` again"
        )
