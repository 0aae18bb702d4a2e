"""An archive behind an http or https address."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import requests

from histopipe.core.errors import SourceError, UnreachableError
from histopipe.core.files import file_digest
from histopipe.ingest.sources.archive_file import check_archive, check_digest, demanded_checksum
from histopipe.ingest.sources.download import (
    SHORT_PAUSES,
    TIMEOUTS,
    Download,
    TransientError,
    Version,
    download,
    insist,
    network_errors,
    refuse_failure,
)
from histopipe.ingest.sources.record import SourceRecord
from histopipe.ingest.sources.wanted import Wanted, archive_name

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WebSource:
    """An archive that any web server offers."""

    wanted: Wanted

    def locate(self) -> SourceRecord:
        """Describe the archive by what its server says of it.

        Raises:
            UnreachableError: no answer, or the server is in trouble.
            SourceError: the server has no such file.
        """
        version = self._ask()
        shown = self.wanted.shown
        if version.size == 0:
            raise SourceError(f"{shown} is empty (0 bytes): check {self.wanted.key('source')}")
        if version.condition is None and version.etag is None:
            _log.warning(
                "%s: %s tells no versions apart; a change of the same size passes unseen",
                self.wanted.dataset,
                shown,
            )
        last = PurePosixPath(unquote(urlsplit(shown).path)).name
        return SourceRecord(
            kind="web",
            source=shown,
            resolved=shown,
            name=archive_name(last, self.wanted.dataset),
            size=version.size,
            fingerprint={**version.as_dict(), **demanded_checksum(self.wanted)},
        )

    def patches(self) -> None:
        """Unknown until the archive is here."""

    def bring(self, record: SourceRecord, target: Path) -> None:
        """Download the archive, going on where an interrupted download stopped.

        Raises:
            UnreachableError: the connection failed again and again; what came so far is kept.
            SourceError: the server's file changed, is no archive, or not the one that `checksum` demands.
        """
        # A demanded checksum says more than a mirror's idea of a version.
        pinned = self.wanted.block.checksum is not None or "checksum" in record.fingerprint
        located = Version() if pinned else Version(**record.fingerprint)
        task = Download(
            folder=self.wanted.workspace.downloads(self.wanted.dataset),
            name=record.name,
            shown=self.wanted.shown,
            dataset=self.wanted.dataset,
            located=located,
            open=self._open,
        )
        download(task)
        accept(task, self.wanted, target)

    def _ask(self) -> Version:
        try:
            return insist(self._ask_once, pauses=SHORT_PAUSES)
        except TransientError as problem:
            remedy = f"check the network and {self.wanted.key('source')}, or `dvc pull` what was fetched before"
            raise UnreachableError(f"{self.wanted.shown} can't be reached ({problem})", remedy) from None

    def _ask_once(self) -> Version:
        """HEAD; where a server doesn't allow it or leaves the size out, GET of one byte."""
        with (
            network_errors(self.wanted.shown),
            requests.head(
                self.wanted.source,
                headers={"Accept-Encoding": "identity"},
                timeout=TIMEOUTS,
                allow_redirects=True,
            ) as answer,
        ):
            version = Version.of(answer)
            if answer.ok and version.size is not None:
                return version
        with self._open({"Range": "bytes=0-0"}) as answer:
            if answer.status_code != requests.codes.requested_range_not_satisfiable:  # as of an empty file
                refuse_failure(answer, self.wanted.shown, self.wanted.key("source"))
            return Version.of(answer)

    def _open(self, headers: dict[str, str]) -> requests.Response:
        with network_errors(self.wanted.shown):
            return requests.get(
                self.wanted.source,
                headers={"Accept-Encoding": "identity", **headers},  # the file's own bytes, not a packed form
                timeout=TIMEOUTS,
                stream=True,
            )


def accept(task: Download, wanted: Wanted, target: Path) -> None:
    """Check a finished download and move it to `target`; one that fails is thrown away, never to be resumed.

    Raises:
        SourceError: it is no archive, or not the one that `checksum` demands.
    """
    try:
        check_archive(task.part, task.shown)
        if wanted.block.checksum is not None:
            check_digest(file_digest(task.part), wanted, task.shown)
    except SourceError:
        task.discard()
        raise
    shutil.move(task.part, target)
    task.discard()
