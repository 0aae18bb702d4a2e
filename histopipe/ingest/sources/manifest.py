"""The manifest of a data set of the user's own travels with its archive."""

from __future__ import annotations

import shutil
from pathlib import Path

from histopipe.core.errors import SourceError
from histopipe.core.files import file_digest
from histopipe.ingest.sources.record import SourceRecord
from histopipe.ingest.sources.wanted import MANIFEST_NAME, Wanted


def describe_manifest(wanted: Wanted) -> dict[str, str] | None:
    """Path and SHA-256 of the data set's manifest; None where it needs none.

    Raises:
        SourceError: `params.yaml` names one that can't be read.
    """
    named = wanted.block.manifest
    if named is None:
        return None
    path = wanted.path(named)
    try:
        if not path.is_file():
            raise SourceError(
                f"{path} is missing: set {wanted.key('manifest')} to a CSV file (file,case_id,label[,x,y])"
            )
        return {"path": named, "sha256": file_digest(path)}
    except OSError as problem:
        raise SourceError(f"{path} can't be read ({problem.strerror}): check {wanted.key('manifest')}") from None


def copy_manifest(wanted: Wanted, record: SourceRecord, folder: Path) -> None:
    """Copy the manifest, if any, into `folder`.

    Raises:
        SourceError: it is missing, or differs from the one that was located.
    """
    found = describe_manifest(wanted)
    if found is not None:
        shutil.copyfile(wanted.path(found["path"]), folder / MANIFEST_NAME)
        found["sha256"] = file_digest(folder / MANIFEST_NAME)
    if found != record.manifest:
        raise SourceError(
            f"{wanted.key('manifest')} changed since it was located: run `histopipe locate {wanted.dataset}` again"
        )
