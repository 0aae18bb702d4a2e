"""A data set on Kaggle, through Kaggle's own client.

`kagglehub.dataset_download` unpacks what it gets into hundreds of thousands of files. The calls it is made of
give the archive as it came: the current version's number, and the download's address, which a plain ranged
GET can continue.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from histopipe.core.errors import SourceError, UnreachableError, one_line
from histopipe.ingest.sources.archive_file import demanded_checksum
from histopipe.ingest.sources.download import (
    SHORT_PAUSES,
    TIMEOUTS,
    Download,
    TransientError,
    Version,
    download,
    insist,
    network_errors,
)
from histopipe.ingest.sources.record import SourceRecord
from histopipe.ingest.sources.wanted import Wanted
from histopipe.ingest.sources.web import accept


@dataclass(frozen=True)
class KaggleSource:
    """The data set behind a Kaggle handle, at its current version."""

    wanted: Wanted

    def locate(self) -> SourceRecord:
        """Describe the data set by its version number, which Kaggle raises with every change.

        Raises:
            UnreachableError: no network or no access.
            SourceError: the data set isn't on Kaggle.
        """
        handle = self._handle
        try:
            version, size = insist(self._current_version, pauses=SHORT_PAUSES)
        except TransientError as problem:
            raise self._unreachable(str(problem)) from None
        return SourceRecord(
            kind="kaggle",
            source=self.wanted.shown,
            resolved=f"{handle}/versions/{version}",
            name=f"{handle.rpartition('/')[2]}-v{version}.zip",
            size=size,
            fingerprint={"handle": handle, "version": version, **demanded_checksum(self.wanted)},
        )

    def patches(self) -> int | None:
        """The published count."""
        published = self.wanted.layout.published if self.wanted.layout else None
        return published.patches if published else None

    def bring(self, record: SourceRecord, target: Path) -> None:
        """Download the recorded version's archive, going on where an interrupted download stopped.

        Raises:
            UnreachableError: no network or no access; what came so far is kept.
            SourceError: what came is no archive, or not the one that `checksum` demands.
        """
        version = int(record.fingerprint["version"])
        task = Download(
            folder=self.wanted.workspace.downloads(self.wanted.dataset),
            name=record.name,
            shown=f"kaggle {record.resolved}",
            dataset=self.wanted.dataset,
            located=Version(),  # the version is part of the request
            open=lambda headers: self._open(version, headers),
        )
        download(task)
        accept(task, self.wanted, target)

    @property
    def _handle(self) -> str:
        handle = self.wanted.layout.kaggle if self.wanted.layout else None
        if handle is None:
            key = self.wanted.key("source")
            raise SourceError(f"no Kaggle data set is known for {self.wanted.dataset}: set {key} to a path or a URL")
        return handle

    def _current_version(self) -> tuple[int, int | None]:
        """Number and size in bytes of the current version."""
        from kagglesdk.datasets.types.dataset_api_service import ApiGetDatasetRequest

        request = ApiGetDatasetRequest()
        request.owner_slug, request.dataset_slug = self._handle.split("/")
        with self._kaggle_errors(), _client() as client:
            found = client.datasets.dataset_api_client.get_dataset(request)
        return int(found.current_version_number), int(found.total_bytes or 0) or None

    def _open(self, version: int, headers: dict[str, str]) -> requests.Response:
        """Start the download of one version's archive.

        Kaggle forwards to a signed address that expires, so each attempt asks for a new one; a range is asked
        of that address itself, as kagglehub does.
        """
        from kagglesdk.datasets.types.dataset_api_service import ApiDownloadDatasetRequest

        request = ApiDownloadDatasetRequest()
        request.owner_slug, request.dataset_slug = self._handle.split("/")
        request.dataset_version_number = version
        with self._kaggle_errors(), _client() as client:
            answer: requests.Response = client.datasets.dataset_api_client.download_dataset(request)
            if "Range" not in headers:
                return answer
            answer.close()
            return requests.get(answer.url, headers=headers, timeout=TIMEOUTS, stream=True)

    @contextmanager
    def _kaggle_errors(self) -> Iterator[None]:
        """Kaggle's own errors in the terms that downloads know."""
        with network_errors(f"kaggle {self._handle}"):
            try:
                yield
            except requests.HTTPError as problem:
                self._refuse(problem.response.status_code if problem.response is not None else 0)
            except requests.RequestException:
                raise
            except ValueError as problem:  # a kaggle.json that isn't one
                raise self._unreachable(one_line(problem)) from None

    def _refuse(self, code: int) -> None:
        if code in (401, 403):
            raise self._unreachable(f"it answers {code}: no access") from None
        if code == 404:
            key = self.wanted.key("source")
            raise SourceError(f"{self._handle} isn't on Kaggle any more: set {key} to a path or a URL") from None
        raise TransientError(f"Kaggle answers {code}") from None

    def _unreachable(self, reason: str) -> UnreachableError:
        return UnreachableError(
            f"Kaggle can't be asked for {self.wanted.dataset} ({reason})",
            "check the network and the login (~/.kaggle/kaggle.json, ~/.kaggle/access_token, KAGGLE_API_TOKEN"
            " or KAGGLE_USERNAME and KAGGLE_KEY), "
            f"or set {self.wanted.key('source')} to the downloaded archive's path",
        )


class _Timed(HTTPAdapter):
    """Kaggle's client sends without time limits; a silent server would hang the stage for ever."""

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        return super().send(request, *args, **{**options, "timeout": options.get("timeout") or TIMEOUTS})


@contextmanager
def _client() -> Iterator[Any]:
    from kagglehub.clients import build_kaggle_client

    logging.getLogger("kagglehub").setLevel(logging.ERROR)  # it writes to stdout
    with build_kaggle_client() as client:
        session = client.http_client()._session
        session.mount("https://", _Timed())
        session.mount("http://", _Timed())
        yield client
