"""Archives at an http or https address."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import requests

from histopipe.core.errors import SourceError, UnreachableError
from histopipe.core.files import file_digest
from histopipe.ingest.sources.archive_file import check_archive, check_digest, get_checksum_entry
from histopipe.ingest.sources.download import (
    SHORT_PAUSES,
    TIMEOUTS,
    Download,
    TransientError,
    Version,
    check_status,
    download,
    retry,
    translate_network_errors,
)
from histopipe.ingest.sources.record import SourceRecord
from histopipe.ingest.sources.wanted import SourceSpec, make_archive_name

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WebSource:
    """An archive on a web server."""

    spec: SourceSpec

    def locate(self) -> SourceRecord:
        """Return a record with the version that the server states.

        Raises:
            UnreachableError: the server doesn't respond or reports an error of its own.
            SourceError: the server has no such file.
        """
        version = self._request_version()
        display_source = self.spec.display_source
        if version.size == 0:
            raise SourceError(f"{display_source} is empty (0 bytes): check {self.spec.key('source')}")
        if version.condition is None and version.etag is None:
            _log.warning(
                "%s: %s states no version; a change that keeps the size is not detected",
                self.spec.dataset,
                display_source,
            )
        file_name = PurePosixPath(unquote(urlsplit(display_source).path)).name
        return SourceRecord(
            kind="web",
            source=display_source,
            resolved=display_source,
            name=make_archive_name(file_name, self.spec.dataset),
            size=version.size,
            fingerprint={**version.as_dict(), **get_checksum_entry(self.spec)},
        )

    def estimate_patches(self) -> None:
        """Return None: the number is unknown until the archive is downloaded."""

    def fetch(self, record: SourceRecord, target: Path) -> None:
        """Download the archive, or resume its download.

        Raises:
            UnreachableError: the connection failed repeatedly. The unfinished file is kept.
            SourceError: the file on the server changed, is no archive, or doesn't have the required `checksum`.
        """
        # a checksum is stronger than the version, which may differ between mirrors
        pinned = self.spec.block.checksum is not None or "checksum" in record.fingerprint
        located = Version() if pinned else Version(**record.fingerprint)
        task = Download(
            folder=self.spec.workspace.downloads(self.spec.dataset),
            name=record.name,
            display_name=self.spec.display_source,
            dataset=self.spec.dataset,
            located=located,
            open=self._open,
        )
        download(task)
        accept_download(task, self.spec, target)

    def _request_version(self) -> Version:
        try:
            return retry(self._request_version_once, pauses=SHORT_PAUSES)
        except TransientError as problem:
            remedy = f"check the network and {self.spec.key('source')}, or `dvc pull` the archive fetched before"
            raise UnreachableError(f"{self.spec.display_source} can't be reached ({problem})", remedy) from None

    def _request_version_once(self) -> Version:
        """Send HEAD; if the server doesn't allow it or leaves out the size, send GET for one byte."""
        with (
            translate_network_errors(self.spec.display_source),
            requests.head(
                self.spec.source,
                headers={"Accept-Encoding": "identity"},
                timeout=TIMEOUTS,
                allow_redirects=True,
            ) as response,
        ):
            version = Version.from_response(response)
            if response.ok and version.size is not None:
                return version
        with self._open({"Range": "bytes=0-0"}) as response:
            if response.status_code != requests.codes.requested_range_not_satisfiable:  # the file may be empty
                check_status(response, self.spec.display_source, self.spec.key("source"))
            return Version.from_response(response)

    def _open(self, headers: dict[str, str]) -> requests.Response:
        with translate_network_errors(self.spec.display_source):
            return requests.get(
                self.spec.source,
                headers={
                    "Accept-Encoding": "identity",
                    **headers,
                },  # the bytes of the file, not compressed for transfer
                timeout=TIMEOUTS,
                stream=True,
            )


def accept_download(task: Download, spec: SourceSpec, target: Path) -> None:
    """Check a finished download and move it to `target`, or delete it so that it isn't resumed.

    Raises:
        SourceError: the file is no archive, or doesn't have the required `checksum`.
    """
    try:
        check_archive(task.part, task.display_name)
        if spec.block.checksum is not None:
            check_digest(file_digest(task.part), spec, task.display_name)
    except SourceError:
        task.discard()
        raise
    shutil.move(task.part, target)
    task.discard()
