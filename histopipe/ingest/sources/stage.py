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
from histopipe.core.files import format_size, replaced_folder, require_disk
from histopipe.core.params import Params
from histopipe.core.stages.folders import stage_check
from histopipe.core.stages.inputs import require_unchanged_inputs
from histopipe.core.workspace import Workspace
from histopipe.ingest.sources.manifest import copy_manifest, describe_manifest
from histopipe.ingest.sources.record import Source, SourceRecord
from histopipe.ingest.sources.wanted import SourceSpec

_log = logging.getLogger(__name__)


def locate(dataset: str, params: Params, workspace: Workspace) -> SourceRecord:
    """Identify the current version of a data set's source and write its record.

    If the source was located before but can't be reached now, its record is kept and a warning is logged.

    Args:
        dataset: name of the data set in `params`.
        params: the parameters in `params.yaml`.
        workspace: paths of the record and of the checkout.

    Returns:
        The record, as written to `workspace.source(dataset)`.

    Raises:
        SourceError: the source is missing, is no archive, or can't be reached and wasn't located before.

    Example:
        >>> locate("idc", params, workspace).name
        'breast-histopathology-images-v1.zip'
    """
    spec = SourceSpec(dataset, params, workspace)
    if spec.display_source != spec.source.partition("#")[0]:
        _log.warning("%s contains a login, which DVC copies into dvc.lock: put it into ~/.netrc", spec.key("source"))
    earlier = _read_earlier_record(spec)
    manifest = describe_manifest(spec)
    try:
        record = open_source(spec).locate()
    except UnreachableError as problem:
        record = _keep_record(earlier, spec, problem)
    record = replace(record, manifest=manifest)
    if record != earlier:
        require_unchanged_inputs()
        record.write(workspace.source(dataset))
    return record


def fetch(dataset: str, params: Params, workspace: Workspace) -> Path:
    """Fetch the located archive into `workspace.raw(dataset)`, complete and checked, or leave that folder unchanged.

    Args:
        dataset: name of the data set in `params`.
        params: the parameters in `params.yaml`.
        workspace: paths of the record and the archive.

    Returns:
        The path of the archive. If the data set has a manifest, `manifest.csv` is next to it.

    Raises:
        SourceError: the source can't be reached, has changed since it was located, or fails a check.
        HistopipeError: the source was never located, or the disk is too full.

    Example:
        >>> fetch("idc", params, workspace)
        PosixPath('data/raw/idc/breast-histopathology-images-v1.zip')
    """
    spec = SourceSpec(dataset, params, workspace)
    record = SourceRecord.read(workspace.source(dataset))
    if record.source != spec.display_source:
        raise SourceError(f"{workspace.source(dataset)} describes {record.source}: run `histopipe locate {dataset}`")
    source = open_source(spec)
    raw = workspace.raw(dataset)
    _print_sizes(spec, source, record)
    require_disk(raw, _count_remaining_bytes(spec, record), f"fetching {dataset}")
    with _translate_disk_errors(dataset, raw), replaced_folder(raw, stage_check("fetch")) as folder:
        copy_manifest(spec, record, folder)
        source.fetch(record, folder / record.name)
        require_unchanged_inputs()
    return raw / record.name


def open_source(spec: SourceSpec) -> Source:
    """Return the source that `params.yaml` names, without contacting it.

    Raises:
        SourceError: `source` is of no known kind, or a path that doesn't exist.
    """
    if spec.source == "synthetic":
        from histopipe.ingest.sources.synthetic import SyntheticSource

        return SyntheticSource(spec)
    if spec.source == "kaggle":
        from histopipe.ingest.sources.kaggle import KaggleSource

        return KaggleSource(spec)
    if is_url(spec.source):
        from histopipe.ingest.sources.web import WebSource

        return WebSource(spec)
    from histopipe.ingest.sources.local import open_local

    return open_local(spec)


def _read_earlier_record(spec: SourceSpec) -> SourceRecord | None:
    path = spec.workspace.source(spec.dataset)
    try:
        return SourceRecord.read(path) if path.exists() else None
    except HistopipeError:  # a damaged record counts as missing, since it is about to be rewritten
        return None


def _keep_record(earlier: SourceRecord | None, spec: SourceSpec, problem: UnreachableError) -> SourceRecord:
    """Return the earlier record of an unreachable source; DVC still has the archive that was fetched with it."""
    if earlier is None or earlier.source != spec.display_source:
        raise problem
    _log.warning("%s: %s; the earlier record is kept", spec.dataset, problem.problem)
    return earlier


def _print_sizes(spec: SourceSpec, source: Source, record: SourceRecord) -> None:
    """Print how much disk space the stages need, before they use any."""
    line = f"{spec.dataset}: fetching {format_size(record.size) if record.size else 'an archive of unknown size'}"
    patches, patch_bytes = source.estimate_patches(), spec.patch_bytes
    if patches and patch_bytes:
        line += f"; the packed store will need about {format_size(patches * patch_bytes)} more"
    print(line, flush=True)


def _count_remaining_bytes(spec: SourceSpec, record: SourceRecord) -> int:
    part = spec.workspace.downloads(spec.dataset) / f"{record.name}.part"
    return (record.size or 0) - (part.stat().st_size if part.exists() else 0)


@contextmanager
def _translate_disk_errors(dataset: str, raw: Path) -> Iterator[None]:
    """Turn errors of the disk, which the user can fix, into one line without a traceback."""
    try:
        yield
    except OSError as problem:
        remedy = "make room" if problem.errno == errno.ENOSPC else "check the disk and its permissions"
        where = problem.filename or raw
        raise SourceError(f"fetching {dataset} failed at {where} ({problem.strerror}): {remedy}") from None
