"""Downloads that resume after lost connections and killed processes.

`NAME.part` holds the bytes received so far. `NAME.part.json` records the file and the version that they belong to, so
that two versions are never mixed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import sleep
from typing import TypeVar

import requests
import urllib3

from histopipe.core.errors import HistopipeError, SourceError, UnreachableError
from histopipe.core.files import format_size, read_json, require_disk, write_json
from histopipe.core.outputs.claims import remove_own_folder
from histopipe.ingest.sources.progress import show_byte_progress

TIMEOUTS = (10, 60)  # seconds to connect, and between two chunks of a response
PAUSES = (1.0, 2.0, 4.0, 8.0)  # seconds before the next attempt, after attempts without progress
SHORT_PAUSES = (1.0,)  # if there is a fallback
FILES = ("[!.]*.part", "[!.]*.part.json")  # in the folder of a data set
_CHUNK = 2**16  # bytes that a lost connection may cost
_TRANSIENT = (408, 425, 429)  # status codes that mean "later", as every 5xx does
_RANGE = re.compile(r"bytes (?:(?P<start>\d+)-\d+|\*)/(?P<total>\d+|\*)")

_Result = TypeVar("_Result")


class TransientError(Exception):
    """A connection error that a retry may solve. Its argument says what failed."""


@dataclass(frozen=True)
class Version:
    """The version of a file on a server, by the headers that the server sends.

    Attributes:
        etag: `ETag`; None if the server doesn't send it.
        last_modified: `Last-Modified`; None if the server doesn't send it.
        size: size in bytes; None if the server doesn't state it.
    """

    etag: str | None = None
    last_modified: str | None = None
    size: int | None = None

    @classmethod
    def from_response(cls, response: requests.Response) -> Version:
        """Read the version from a response."""
        headers = response.headers
        content_range = _RANGE.fullmatch(headers.get("Content-Range", ""))
        length = content_range["total"] if content_range else headers.get("Content-Length", "")
        return cls(headers.get("ETag"), headers.get("Last-Modified"), int(length) if length.isdigit() else None)

    @property
    def has_valid_types(self) -> bool:
        """Return whether the values have the right types, since they may come from a damaged file."""
        texts = (self.etag, self.last_modified)
        return all(isinstance(text, str | None) for text in texts) and isinstance(self.size, int | None)

    @property
    def condition(self) -> str | None:
        """Return the value for `If-Range`; a weak tag doesn't guarantee the same bytes."""
        strong = self.etag if self.etag and not self.etag.startswith("W/") else None
        return strong or self.last_modified

    def contradicts(self, other: Version) -> bool:
        """Return whether the two can't be the same version; if both have a tag, the date doesn't count."""
        if None not in (self.size, other.size) and self.size != other.size:
            return True
        if self.etag and other.etag:
            return self.etag != other.etag
        return bool(self.last_modified and other.last_modified and self.last_modified != other.last_modified)

    def as_dict(self) -> dict[str, str | int]:
        """Return the values that the server sent."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Download:
    """A file to download.

    Attributes:
        folder: folder of the unfinished file.
        name: name of the file.
        display_name: name of the source in messages and in the state file; free of credentials.
        dataset: the data set that the file is for.
        located: the version to download; without values, any version.
        open: sends a request with these headers and returns the response; raises TransientError.
    """

    folder: Path
    name: str
    display_name: str
    dataset: str
    located: Version
    open: Callable[[dict[str, str]], requests.Response]

    @property
    def part(self) -> Path:
        """Return the path of the bytes received so far."""
        return self.folder / f"{self.name}.part"

    @property
    def state(self) -> Path:
        """Return the path of the state file, which records what `part` is the beginning of."""
        return self.folder / f"{self.name}.part.json"

    @property
    def length(self) -> int:
        """Return the number of bytes received so far."""
        return self.part.stat().st_size if self.part.exists() else 0

    def discard(self) -> None:
        """Delete the unfinished file and, unless the folder has other files too, all downloads of the data set."""
        for path in (self.part, self.state):
            path.unlink(missing_ok=True)
        remove_own_folder(self.folder, FILES)


def download(task: Download) -> None:
    """Download a file, or resume its download, so that `task.part` is complete.

    Raises:
        UnreachableError: several attempts in a row made no progress.
        SourceError: the server has no such file, or not the version that was located.
    """
    task.folder.mkdir(parents=True, exist_ok=True)
    try:
        retry(lambda: _attempt(task), lambda: task.length)
    except TransientError as problem:
        progress = f"stopped after {format_size(task.length)}" if task.length else "can't be downloaded"
        raise UnreachableError(
            f"{task.display_name} {progress} ({problem})", "run the same command again to resume"
        ) from None


def retry(
    attempt: Callable[[], _Result], progress: Callable[[], int] = lambda: 0, pauses: Sequence[float] = PAUSES
) -> _Result:
    """Repeat an attempt as long as it fails with TransientError.

    Args:
        attempt: function to call.
        progress: returns how far the attempts got. Progress resets the count of failures.
        pauses: seconds before each further attempt.

    Returns:
        The result of the first attempt that succeeds.

    Raises:
        TransientError: the error of the last attempt, after all pauses.
    """
    failures, furthest = 0, progress()
    while True:
        try:
            return attempt()
        except TransientError:
            reached = progress()
            failures = failures + 1 if reached <= furthest else 1
            furthest = max(furthest, reached)
            if failures > len(pauses):
                raise
            sleep(pauses[failures - 1])


@contextmanager
def translate_network_errors(display_name: str, lost: str = "no connection") -> Iterator[None]:
    """Translate errors of requests and urllib3, whose messages contain the whole address.

    Args:
        display_name: name of the address in messages.
        lost: description of a failed connection.

    Raises:
        TransientError: a retry may succeed.
        SourceError: the address is invalid.
    """
    try:
        yield
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, UnicodeError):
        raise SourceError(f"{display_name} is not a valid address: check its host and port") from None
    except requests.TooManyRedirects:
        raise SourceError(f"{display_name} redirects in circles: check the address") from None
    except (requests.Timeout, urllib3.exceptions.TimeoutError):
        raise TransientError("no answer in time") from None
    except (requests.exceptions.SSLError, urllib3.exceptions.SSLError):
        raise TransientError("no trusted TLS connection") from None
    except (requests.RequestException, urllib3.exceptions.HTTPError):
        raise TransientError(lost) from None


def check_status(response: requests.Response, display_name: str, key: str) -> None:
    """Check that a response has content.

    Args:
        response: the server's response.
        display_name: name of the address in messages.
        key: key of the address in `params.yaml`.

    Raises:
        TransientError: the status code means that a retry may succeed.
        SourceError: the status code means that it won't.
    """
    code = response.status_code
    if code >= 500 or code in _TRANSIENT:
        raise TransientError(f"the server responds with {code}")
    if code in (401, 403):
        raise SourceError(
            f"{display_name} is not allowed ({code}): put the login into ~/.netrc or renew the link in {key}"
        )
    if code >= 400:
        raise SourceError(f"{display_name} doesn't exist (the server responds with {code}): check {key}")


def _attempt(task: Download) -> None:
    resumed = _find_resumable_version(task)
    start = task.length if resumed else 0
    if resumed and start == resumed.size:
        return  # complete: an earlier process was killed before the check
    with task.open(_make_range_headers(start, resumed)) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            task.part.unlink(missing_ok=True)
            raise TransientError("the server refuses to resume")
        check_status(response, task.display_name, f"{task.dataset}.source")
        version = Version.from_response(response)
        _check_located(task, version)
        if response.status_code == requests.codes.partial_content:
            _check_continues(task, response, start, resumed)
        else:
            start = 0
            _restart(task, version)
        _append(task, response, start, version.size)


def _find_resumable_version(task: Download) -> Version | None:
    """Return the version that the part belongs to; None if its download can't be resumed."""
    try:
        state = read_json(task.state)
        version = Version(**state["version"])
    except (HistopipeError, OSError, TypeError, KeyError):
        return None
    if not version.has_valid_types:
        return None
    matches = state.get("source") == task.display_name and not version.contradicts(task.located)
    return version if matches and version.condition and task.length > 0 else None


def _make_range_headers(start: int, version: Version | None) -> dict[str, str]:
    if version is None or version.condition is None:
        return {}
    return {"Range": f"bytes={start}-", "If-Range": version.condition}


def _check_located(task: Download, version: Version) -> None:
    if version.contradicts(task.located):
        raise SourceError(
            f"{task.display_name} changed since it was located: run `histopipe locate {task.dataset}` again"
        )


def _check_continues(task: Download, response: requests.Response, start: int, resumed: Version | None) -> None:
    """Check that a partial response continues the part, and delete the part if not.

    Some servers handle ranges wrongly, and bytes of two files must not be mixed.
    """
    content_range = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    continues = content_range is not None and content_range["start"] == str(start)
    if resumed is None or not continues or Version.from_response(response).contradicts(resumed):
        task.part.unlink(missing_ok=True)
        raise TransientError("the server resumes another file")


def _restart(task: Download, version: Version) -> None:
    """Empty the part, then write its state: old bytes must never be recorded as a new version."""
    task.part.write_bytes(b"")
    require_disk(task.folder, version.size or 0, f"downloading {task.dataset}")
    write_json(task.state, {"source": task.display_name, "version": version.as_dict()})


def _append(task: Download, response: requests.Response, start: int, size: int | None) -> None:
    with task.part.open("ab", buffering=0) as part, show_byte_progress(size, task.dataset, start) as bar:
        for chunk in _iterate_chunks(response, task.display_name):
            part.write(chunk)
            bar.update(len(chunk))
    if size is not None and task.length < size:
        raise TransientError("the connection was cut")
    if size is not None and task.length > size:
        task.part.unlink()
        raise TransientError("the server sent more than it announced")


def _iterate_chunks(response: requests.Response, display_name: str) -> Iterator[bytes]:
    """Yield the body as it is sent; `iter_content` would unpack a `.tar.gz` that a server declares gzip-encoded."""
    with translate_network_errors(display_name, lost="the connection was cut"):
        yield from response.raw.stream(_CHUNK, decode_content=False)
