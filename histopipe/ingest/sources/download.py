"""Downloads that survive cut connections and killed processes.

What has come so far lies in `NAME.part`; `NAME.part.json` says which version of which file it is the
beginning of, so that two versions are never spliced.
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
from histopipe.core.files import as_size, read_json, require_disk, write_json
from histopipe.core.outputs.claims import remove_known
from histopipe.ingest.sources.progress import byte_progress

TIMEOUTS = (10, 60)  # seconds to connect, and between two pieces of an answer
PAUSES = (1.0, 2.0, 4.0, 8.0)  # seconds before each further attempt that brings nothing new
SHORT_PAUSES = (1.0,)  # where there is something to fall back on
FILES = ("[!.]*.part", "[!.]*.part.json")  # in the folder of a data set
_CHUNK = 2**16  # what a cut connection can lose
_TRANSIENT = (408, 425, 429)  # "later", as every 5xx is
_RANGE = re.compile(r"bytes (?:(?P<start>\d+)-\d+|\*)/(?P<total>\d+|\*)")

_Result = TypeVar("_Result")


class TransientError(Exception):
    """A connection that failed in a way that may pass; says how, in a few words."""


@dataclass(frozen=True)
class Version:
    """What a server says of a file that tells its versions apart; what it doesn't say is None."""

    etag: str | None = None
    last_modified: str | None = None
    size: int | None = None

    @classmethod
    def of(cls, answer: requests.Response) -> Version:
        """The version that an answer is about."""
        headers = answer.headers
        stated = _RANGE.fullmatch(headers.get("Content-Range", ""))
        length = stated["total"] if stated else headers.get("Content-Length", "")
        return cls(headers.get("ETag"), headers.get("Last-Modified"), int(length) if length.isdigit() else None)

    @property
    def is_plausible(self) -> bool:
        """Whether it could be a server's word: what was noted of it may be damaged."""
        texts = (self.etag, self.last_modified)
        return all(isinstance(text, str | None) for text in texts) and isinstance(self.size, int | None)

    @property
    def condition(self) -> str | None:
        """The value for `If-Range`; a weak tag doesn't promise the same bytes."""
        strong = self.etag if self.etag and not self.etag.startswith("W/") else None
        return strong or self.last_modified

    def contradicts(self, other: Version) -> bool:
        """Whether the two can't be the same version. A tag, where both have one, outweighs a date."""
        if None not in (self.size, other.size) and self.size != other.size:
            return True
        if self.etag and other.etag:
            return self.etag != other.etag
        return bool(self.last_modified and other.last_modified and self.last_modified != other.last_modified)

    def as_dict(self) -> dict[str, str | int]:
        """What the server did say."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Download:
    """One file to download.

    Attributes:
        folder: holds the unfinished file.
        name: the file's name.
        shown: what messages and the state call it; free of credentials.
        dataset: the data set that it is for.
        located: the version to get; empty where any will do.
        open: sends a request with the given headers; raises TransientError.
    """

    folder: Path
    name: str
    shown: str
    dataset: str
    located: Version
    open: Callable[[dict[str, str]], requests.Response]

    @property
    def part(self) -> Path:
        """What has come so far."""
        return self.folder / f"{self.name}.part"

    @property
    def state(self) -> Path:
        """Says what `part` is the beginning of."""
        return self.folder / f"{self.name}.part.json"

    @property
    def length(self) -> int:
        """Bytes that have come so far."""
        return self.part.stat().st_size if self.part.exists() else 0

    def discard(self) -> None:
        """Remove everything of this and, unless a user's file lies among them, abandoned downloads of the data set."""
        for path in (self.part, self.state):
            path.unlink(missing_ok=True)
        remove_known(self.folder, FILES)


def download(task: Download) -> None:
    """Bring `task.part` to its full length, from where it stands.

    Raises:
        UnreachableError: several attempts in a row brought nothing new.
        SourceError: the server has no such file, or another version than was located.
    """
    task.folder.mkdir(parents=True, exist_ok=True)
    try:
        insist(lambda: _go_on(task), lambda: task.length)
    except TransientError as problem:
        where = f"stopped after {as_size(task.length)}" if task.length else "can't be downloaded"
        raise UnreachableError(f"{task.shown} {where} ({problem})", "run the same command again to go on") from None


def insist(
    attempt: Callable[[], _Result], progress: Callable[[], int] = lambda: 0, pauses: Sequence[float] = PAUSES
) -> _Result:
    """Repeat an attempt that is interrupted; one that got further than any before starts the count anew.

    Raises:
        TransientError: the last attempt's, when all pauses are used up.
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
def network_errors(shown: str, lost: str = "no connection") -> Iterator[None]:
    """Turn what requests and urllib3 raise into TransientError: their own messages show the whole address.

    Args:
        shown: what messages call the address.
        lost: what to call a failed connection.

    Raises:
        TransientError: a failure that may pass.
        SourceError: an address that can't be asked at all.
    """
    try:
        yield
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, UnicodeError):
        raise SourceError(f"{shown} can't be used as an address: check its host and port") from None
    except requests.TooManyRedirects:
        raise SourceError(f"{shown} leads in circles: check the address") from None
    except (requests.Timeout, urllib3.exceptions.TimeoutError):
        raise TransientError("no answer in time") from None
    except (requests.exceptions.SSLError, urllib3.exceptions.SSLError):
        raise TransientError("no trusted TLS connection") from None
    except (requests.RequestException, urllib3.exceptions.HTTPError):
        raise TransientError(lost) from None


def refuse_failure(answer: requests.Response, shown: str, key: str) -> None:
    """Stop at an answer that carries no content.

    Raises:
        TransientError: the server may do better later.
        SourceError: it won't.
    """
    code = answer.status_code
    if code >= 500 or code in _TRANSIENT:
        raise TransientError(f"the server answers {code}")
    if code in (401, 403):
        raise SourceError(f"{shown} is not allowed ({code}): put its login into ~/.netrc or renew the link in {key}")
    if code >= 400:
        raise SourceError(f"{shown} isn't there (the server answers {code}): check {key}")


def _go_on(task: Download) -> None:
    known = _resumable(task)
    start = task.length if known else 0
    if known and start == known.size:
        return  # killed after the last byte, before it was checked
    with task.open(_range_headers(start, known)) as answer:
        if answer.status_code == requests.codes.requested_range_not_satisfiable:
            task.part.unlink(missing_ok=True)
            raise TransientError("the server refuses to go on")
        refuse_failure(answer, task.shown, f"{task.dataset}.source")
        version = Version.of(answer)
        _check_located(task, version)
        if answer.status_code == requests.codes.partial_content:
            _check_continues(task, answer, start, known)
        else:
            start = 0
            _start_anew(task, version)
        _append(task, answer, start, version.size)


def _resumable(task: Download) -> Version | None:
    """The version that the part belongs to, if the server can be asked to continue it."""
    try:
        state = read_json(task.state)
        version = Version(**state["version"])
    except (HistopipeError, OSError, TypeError, KeyError):
        return None
    if not version.is_plausible:
        return None
    fits = state.get("source") == task.shown and not version.contradicts(task.located)
    return version if fits and version.condition and task.length > 0 else None


def _range_headers(start: int, known: Version | None) -> dict[str, str]:
    if known is None or known.condition is None:
        return {}
    return {"Range": f"bytes={start}-", "If-Range": known.condition}


def _check_located(task: Download, version: Version) -> None:
    if version.contradicts(task.located):
        raise SourceError(f"{task.shown} changed since it was located: run `histopipe locate {task.dataset}` again")


def _check_continues(task: Download, answer: requests.Response, start: int, known: Version | None) -> None:
    """Servers that mishandle ranges must not splice two files: throw the part away and start anew."""
    stated = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    begins = stated is not None and stated["start"] == str(start)
    if known is None or not begins or Version.of(answer).contradicts(known):
        task.part.unlink(missing_ok=True)
        raise TransientError("the server continues another file")


def _start_anew(task: Download, version: Version) -> None:
    """Empty the part before saying whose beginning it is: at no moment may an old part bear a new name."""
    task.part.write_bytes(b"")
    require_disk(task.folder, version.size or 0, f"downloading {task.dataset}")
    write_json(task.state, {"source": task.shown, "version": version.as_dict()})


def _append(task: Download, answer: requests.Response, start: int, size: int | None) -> None:
    with task.part.open("ab", buffering=0) as part, byte_progress(size, task.dataset, start) as bar:
        for chunk in _chunks(answer, task.shown):
            part.write(chunk)
            bar.update(len(chunk))
    if size is not None and task.length < size:
        raise TransientError("the connection was cut")
    if size is not None and task.length > size:
        task.part.unlink()
        raise TransientError("more came than was announced")


def _chunks(answer: requests.Response, shown: str) -> Iterator[bytes]:
    """The body as it was sent: `iter_content` would unpack a `.tar.gz` that a server calls gzip-encoded."""
    with network_errors(shown, lost="the connection was cut"):
        yield from answer.raw.stream(_CHUNK, decode_content=False)
