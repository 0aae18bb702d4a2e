"""The stages `locate` and `fetch`."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from histopipe.core.addresses import is_url
from histopipe.core.errors import HistopipeError, SourceError, UnreachableError
from histopipe.core.files import as_size, replaced_folder, require_disk
from histopipe.core.params import Params
from histopipe.core.stages.folders import stage_check
from histopipe.core.stages.inputs import require_unchanged_inputs
from histopipe.core.workspace import Workspace
from histopipe.ingest.sources.manifest import copy_manifest, describe_manifest
from histopipe.ingest.sources.record import Source, SourceRecord
from histopipe.ingest.sources.wanted import Wanted

_log = logging.getLogger(__name__)


def locate(dataset: str, params: Params, workspace: Workspace) -> SourceRecord:
    """Find a data set's source and record by what a change of it would show.

    A source that can't be reached now but was located before keeps its old record, with a warning: what was
    fetched from it is still the newest there is.

    Args:
        dataset: name of the data set in `params`.
        params: says where the source is.
        workspace: where the record is written, and what relative paths start from.

    Returns:
        The record, as written to `workspace.source(dataset)`.

    Raises:
        SourceError: the source is missing, is no archive, or can't be reached and never was.
    """
    wanted = Wanted(dataset, params, workspace)
    if wanted.shown != wanted.source.partition("#")[0]:
        _log.warning("%s holds a login, which DVC repeats in dvc.lock: put it into ~/.netrc", wanted.key("source"))
    earlier = _earlier_record(wanted)
    manifest = describe_manifest(wanted)
    try:
        record = open_source(wanted).locate()
    except UnreachableError as problem:
        record = _kept(earlier, wanted, problem)
    record = replace(record, manifest=manifest)
    if record != earlier:
        require_unchanged_inputs()
        record.write(workspace.source(dataset))
    return record


def fetch(dataset: str, params: Params, workspace: Workspace) -> Path:
    """Bring the located archive into `workspace.raw(dataset)`, whole and checked, or leave that as it was.

    Args:
        dataset: name of the data set in `params`.
        params: says where the source is.
        workspace: holds the record that `locate` wrote, and receives the archive.

    Returns:
        The archive's path; `manifest.csv` lies beside it where the data set has one.

    Raises:
        SourceError: the source can't be reached, isn't what was located, or fails its checks.
        HistopipeError: it was never located, or there is too little room.
    """
    wanted = Wanted(dataset, params, workspace)
    record = SourceRecord.read(workspace.source(dataset))
    if record.source != wanted.shown:
        raise SourceError(f"{workspace.source(dataset)} describes {record.source}: run `histopipe locate {dataset}`")
    source = open_source(wanted)
    raw = workspace.raw(dataset)
    _announce(wanted, source, record)
    require_disk(raw, _left_to_bring(wanted, record), f"fetching {dataset}")
    with _clear_disk_errors(dataset, raw), replaced_folder(raw, stage_check("fetch")) as folder:
        copy_manifest(wanted, record, folder)
        source.bring(record, folder / record.name)
        require_unchanged_inputs()
    return raw / record.name


def open_source(wanted: Wanted) -> Source:
    """The source that `params.yaml` names, not yet looked at.

    Raises:
        SourceError: it is of no known kind, or a path that leads nowhere.
    """
    if wanted.source == "synthetic":
        from histopipe.ingest.sources.synthetic import SyntheticSource

        return SyntheticSource(wanted)
    if wanted.source == "kaggle":
        from histopipe.ingest.sources.kaggle import KaggleSource

        return KaggleSource(wanted)
    if is_url(wanted.source):
        from histopipe.ingest.sources.web import WebSource

        return WebSource(wanted)
    from histopipe.ingest.sources.local import open_local

    return open_local(wanted)


def _earlier_record(wanted: Wanted) -> SourceRecord | None:
    path = wanted.workspace.source(wanted.dataset)
    try:
        return SourceRecord.read(path) if path.exists() else None
    except HistopipeError:  # a damaged record is as good as none: it is about to be written anew
        return None


def _kept(earlier: SourceRecord | None, wanted: Wanted, problem: UnreachableError) -> SourceRecord:
    """The earlier record of the same source. DVC holds what was fetched with it, here or in its cache."""
    if earlier is None or earlier.source != wanted.shown:
        raise problem
    _log.warning("%s: %s; keeping what was located before", wanted.dataset, problem.what)
    return earlier


def _announce(wanted: Wanted, source: Source, record: SourceRecord) -> None:
    """Say what disk the stages need before any of it is used."""
    line = f"{wanted.dataset}: fetching {as_size(record.size) if record.size else 'an archive of unknown size'}"
    patches, patch_bytes = source.patches(), wanted.patch_bytes
    if patches and patch_bytes:
        line += f"; the packed store will need about {as_size(patches * patch_bytes)} more"
    print(line, flush=True)


def _left_to_bring(wanted: Wanted, record: SourceRecord) -> int:
    begun = wanted.workspace.downloads(wanted.dataset) / f"{record.name}.part"
    return (record.size or 0) - (begun.stat().st_size if begun.exists() else 0)


@contextmanager
def _clear_disk_errors(dataset: str, raw: Path) -> Iterator[None]:
    """A full or forbidden disk is the user's to mend: one line, no traceback."""
    try:
        yield
    except OSError as problem:
        remedy = "make room" if problem.errno == errno.ENOSPC else "check the disk and its permissions"
        where = problem.filename or raw
        raise SourceError(f"fetching {dataset} failed at {where} ({problem.strerror}): {remedy}") from None
