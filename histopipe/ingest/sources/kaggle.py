"""Data sets on Kaggle, downloaded through Kaggle's client.

`kagglehub.dataset_download` unpacks a data set into hundreds of thousands of files. The lower-level calls used here
give the number of the current version and the address of the archive, whose download a ranged GET can resume.
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
from histopipe.ingest.sources.archive_file import get_checksum_entry
from histopipe.ingest.sources.download import (
    SHORT_PAUSES,
    TIMEOUTS,
    Download,
    TransientError,
    Version,
    download,
    retry,
    translate_network_errors,
)
from histopipe.ingest.sources.record import SourceRecord
from histopipe.ingest.sources.wanted import SourceSpec
from histopipe.ingest.sources.web import accept_download


@dataclass(frozen=True)
class KaggleSource:
    """The current version of a data set on Kaggle."""

    spec: SourceSpec

    def locate(self) -> SourceRecord:
        """Return a record with the version number, which Kaggle increases with every change.

        Raises:
            UnreachableError: there is no network or no access.
            SourceError: the data set isn't on Kaggle.
        """
        handle = self._handle
        try:
            version, size = retry(self._request_version, pauses=SHORT_PAUSES)
        except TransientError as problem:
            raise self._make_unreachable_error(str(problem)) from None
        return SourceRecord(
            kind="kaggle",
            source=self.spec.display_source,
            resolved=f"{handle}/versions/{version}",
            name=f"{handle.rpartition('/')[2]}-v{version}.zip",
            size=size,
            fingerprint={"handle": handle, "version": version, **get_checksum_entry(self.spec)},
        )

    def estimate_patches(self) -> int | None:
        """Return the published number of patches."""
        published = self.spec.definition.published if self.spec.definition else None
        return published.patches if published else None

    def fetch(self, record: SourceRecord, target: Path) -> None:
        """Download the archive of the recorded version, or resume its download.

        Raises:
            UnreachableError: there is no network or no access. The unfinished file is kept.
            SourceError: the file is no archive, or doesn't have the required `checksum`.
        """
        version = int(record.fingerprint["version"])
        task = Download(
            folder=self.spec.workspace.downloads(self.spec.dataset),
            name=record.name,
            display_name=f"kaggle {record.resolved}",
            dataset=self.spec.dataset,
            located=Version(),  # the version is part of the request
            open=lambda headers: self._open(version, headers),
        )
        download(task)
        accept_download(task, self.spec, target)

    @property
    def _handle(self) -> str:
        handle = self.spec.definition.kaggle if self.spec.definition else None
        if handle is None:
            key = self.spec.key("source")
            raise SourceError(f"no Kaggle data set is known for {self.spec.dataset}: set {key} to a path or a URL")
        return handle

    def _request_version(self) -> tuple[int, int | None]:
        """Request the number and the size in bytes of the current version."""
        from kagglesdk.datasets.types.dataset_api_service import ApiGetDatasetRequest

        request = ApiGetDatasetRequest()
        request.owner_slug, request.dataset_slug = self._handle.split("/")
        with self._translate_kaggle_errors(), _open_client() as client:
            dataset = client.datasets.dataset_api_client.get_dataset(request)
        return int(dataset.current_version_number), int(dataset.total_bytes or 0) or None

    def _open(self, version: int, headers: dict[str, str]) -> requests.Response:
        """Start the download of the archive of one version.

        Kaggle redirects to a signed address that expires, so each attempt requests a new one. A range is requested from
        that address itself, as in kagglehub.
        """
        from kagglesdk.datasets.types.dataset_api_service import ApiDownloadDatasetRequest

        request = ApiDownloadDatasetRequest()
        request.owner_slug, request.dataset_slug = self._handle.split("/")
        request.dataset_version_number = version
        with self._translate_kaggle_errors(), _open_client() as client:
            response: requests.Response = client.datasets.dataset_api_client.download_dataset(request)
            if "Range" not in headers:
                return response
            response.close()
            return requests.get(response.url, headers=headers, timeout=TIMEOUTS, stream=True)

    @contextmanager
    def _translate_kaggle_errors(self) -> Iterator[None]:
        """Translate errors of Kaggle's client into those of downloads."""
        with translate_network_errors(f"kaggle {self._handle}"):
            try:
                yield
            except requests.HTTPError as problem:
                self._raise_for_status(problem.response.status_code if problem.response is not None else 0)
            except requests.RequestException:
                raise
            except ValueError as problem:  # an invalid kaggle.json
                raise self._make_unreachable_error(one_line(problem)) from None

    def _raise_for_status(self, code: int) -> None:
        if code in (401, 403):
            raise self._make_unreachable_error(f"it responds with {code}: no access") from None
        if code == 404:
            key = self.spec.key("source")
            raise SourceError(f"{self._handle} is no longer on Kaggle: set {key} to a path or a URL") from None
        raise TransientError(f"Kaggle responds with {code}") from None

    def _make_unreachable_error(self, reason: str) -> UnreachableError:
        return UnreachableError(
            f"Kaggle can't be reached for {self.spec.dataset} ({reason})",
            "check the network and the login (~/.kaggle/kaggle.json, ~/.kaggle/access_token, KAGGLE_API_TOKEN"
            " or KAGGLE_USERNAME and KAGGLE_KEY), "
            f"or set {self.spec.key('source')} to the downloaded archive's path",
        )


class _TimeoutAdapter(HTTPAdapter):
    """An adapter that sets timeouts, without which Kaggle's client would wait forever for a silent server."""

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        return super().send(request, *args, **{**options, "timeout": options.get("timeout") or TIMEOUTS})


@contextmanager
def _open_client() -> Iterator[Any]:
    from kagglehub.clients import build_kaggle_client

    logging.getLogger("kagglehub").setLevel(logging.ERROR)  # it writes to stdout
    with build_kaggle_client() as client:
        session = client.http_client()._session
        session.mount("https://", _TimeoutAdapter())
        session.mount("http://", _TimeoutAdapter())
        yield client
