"""Reading what clients send: bounded in size, count and time, and never more of it than is allowed."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, NamedTuple

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from histopipe.core.names import without_control
from histopipe.service.problems import Refused

DRAINED, DRAIN_SECONDS = 64 * 2**20, 5.0  # of a body that is refused: some clients read no answer before all is sent
SLOWEST = 16 * 2**10  # bytes a second that a client must move on average, where it may take long
TRIM = 64 * 2**20  # bytes of bodies after which the C library is asked for what it keeps of them
LONGEST_NAME = 200  # letters of a file's name that are kept
LONGEST_FIELD = 100  # bytes of a form's text
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

_BYTES = re.compile("[0-9]{1,20}")  # longer ones than any body are read, and end at the limit
_CLOSE = {"Connection": "close"}  # what is left of the body must not be taken for the next request


class Sent(NamedTuple):
    """A file as a client sent it."""

    name: str
    content: bytes


class Share:
    """What one request holds of the memory; given back once neither the request nor a thread works with it any more.

    Args:
        memory: of all requests.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._taken, self._users = 0, 1
        self._lock = threading.Lock()

    def __call__(self, size: int) -> None:
        """Take `size` bytes more.

        Raises:
            Refused: there is none left.
        """
        self._memory.take(size)
        with self._lock:
            self._taken += size

    def lend(self) -> None:
        """Keep it for one more user, who calls `release` at its end."""
        with self._lock:
            self._users += 1

    def release(self) -> None:
        """End one user's work with it; the last one gives all of it back."""
        with self._lock:
            self._users -= 1
            taken, self._taken = (0, self._taken) if self._users else (self._taken, 0)
        self._memory.give_back(taken)


class Memory:
    """Bound what the bodies of all requests take together, for as long as anything works with them.

    Args:
        most: bytes.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = self._returned = 0
        self._lock = threading.Lock()

    @property
    def held(self) -> int:
        """Bytes in use."""
        return self._held

    def wants_trim(self) -> bool:
        """Whether so much was given back since this was last said that the system should have it."""
        with self._lock:
            if self._returned < TRIM:
                return False
            self._returned = 0
            return True

    def take(self, size: int) -> None:
        """Take some.

        Raises:
            Refused: there is none left.
        """
        with self._lock:
            if self._held + size <= self._most:
                self._held += size
                return
        raise Refused(429, "too much is being sent at once: try again later", headers={**_CLOSE, "Retry-After": "1"})

    def give_back(self, size: int) -> None:
        """Give back what was taken."""
        with self._lock:
            self._held -= size
            self._returned += size

    @contextmanager
    def share(self) -> Iterator[Share]:
        """Give one request its share, called with the bytes to take; the request's own use of it ends with the block.

        Raises:
            Refused: there is none left.
        """
        share = Share(self)
        try:
            yield share
        finally:
            share.release()


def trim_memory() -> None:
    """Have the C library give the system what was freed: it keeps gigabytes after large bodies and images."""
    with suppress(AttributeError, OSError):  # only GNU's has it
        ctypes.CDLL(None).malloc_trim(0)


class Pace(NamedTuple):
    """How long a body may take.

    Attributes:
        whole: seconds for all of it.
        piece: seconds between two pieces; and before `least` is asked for.
        least: bytes a second, on average since the start.
    """

    whole: float
    piece: float
    least: float = 0.0


async def read_files(
    request: Request, limit: int, count: int, pace: Pace, single: tuple[str, ...], take: Callable[[int], None]
) -> list[Sent]:
    """Every file of a request, in their order.

    Args:
        request: whose body is `multipart/form-data` with files in parts of any name, or one file alone.
        limit: bytes of the body.
        count: files at most.
        pace: how long the client may take.
        single: media types of a body that is one file; `/` at the end of one stands for all below it.
        take: as `Memory.share` gives it.

    Raises:
        Refused: too large, too many, too slow, not a form, or without a file.
    """
    media, boundary = _media_type(request)
    if media == "multipart/form-data":
        form = _Form(boundary, count)
        try:
            async for piece in pieces(request, limit, pace):
                take(len(piece))
                form.feed(piece)
            return form.files()
        finally:
            form.forget()
    if not media.startswith(single):
        raise await refused(request, 415, "send multipart/form-data with one or many files, or one file as the body")
    content = bytearray()
    async for piece in pieces(request, limit, pace):
        take(len(piece))
        content += piece
    if not content:
        raise Refused(400, "the body is empty: send an image")
    return [Sent("", bytes(content))]


async def save_file(
    request: Request,
    limit: int,
    pace: Pace,
    single: tuple[str, ...],
    create: Callable[[str], BinaryIO],
    fields: tuple[str, ...] = (),
) -> dict[str, str]:
    """Write the one file of a request to disk, piece by piece; returns the text of a form's other fields.

    Args:
        create: opens the file to write, told its name (empty where the body alone was sent).
        fields: names of fields that a form may hold beside the file.
        request, limit, pace, single: as for `read_files`.

    Raises:
        Refused: as `read_files`; or the disk is full.
    """
    media, boundary = _media_type(request)
    whole = media != "multipart/form-data"
    if whole and not media.startswith(single):
        raise await refused(request, 415, "send multipart/form-data with one file, or the file as the body")
    form = _OneFile(b"body" if whole else boundary, create, fields)
    try:
        if whole:
            form.begin("")
        async for piece in pieces(request, limit, pace):
            await asyncio.to_thread(form.write if whole else form.feed, piece)
        return await asyncio.to_thread(form.finished, whole)
    except OSError as problem:
        if problem.errno not in FULL:
            raise
        raise await refused(request, 507, "the server's disk is full: try again later") from None
    finally:
        form.close()


async def pieces(request: Request, limit: int, pace: Pace) -> AsyncIterator[bytes]:
    """The body piece by piece.

    Raises:
        Refused: longer than `limit` bytes, whatever its header says, or slower than `pace`.
    """
    declared = request.headers.get("content-length", "")
    if _BYTES.fullmatch(declared) and int(declared) > limit:
        raise await refused(request, 413, f"the body has {int(declared):,} bytes; at most {limit:,} are taken")
    received, began, stream = 0, time.monotonic(), request.stream()
    end = began + pace.whole
    while True:
        try:
            async with asyncio.timeout(min(pace.piece, max(0.01, end - time.monotonic()))):
                piece = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise Refused(408, "the body came too slowly", headers=_CLOSE) from None
        except ClientDisconnect:
            raise Refused(400, "the client went away", headers=_CLOSE) from None
        received += len(piece)
        lasted = time.monotonic() - began
        if lasted > pace.piece and received < pace.least * lasted:
            raise Refused(408, "the body came too slowly", headers=_CLOSE)
        if received > limit:
            await _drain(stream)
            raise Refused(413, f"the body is longer than the {limit:,} bytes that are taken", headers=_CLOSE)
        if piece:
            yield piece


async def refused(request: Request, status: int, detail: str) -> Refused:
    """A refusal of a request whose body isn't read for its content."""
    await _drain(request.stream())
    return Refused(status, detail, headers=_CLOSE)


async def _drain(stream: AsyncIterator[bytes]) -> None:
    left = DRAINED
    with suppress(TimeoutError, ClientDisconnect, RuntimeError):
        async with asyncio.timeout(DRAIN_SECONDS):
            async for piece in stream:
                left -= len(piece)
                if left < 0:
                    return


def _media_type(request: Request) -> tuple[str, bytes]:
    media, options = parse_options_header(request.headers.get("content-type", ""))
    return media.decode("latin-1").lower(), options.get(b"boundary", b"")


class _Form:
    """Takes a form apart as its pieces come; files are kept in memory."""

    def __init__(self, boundary: bytes, count: int) -> None:
        self._count = count
        self._parts = 0
        self._name = self._value = b""
        self._headers: dict[bytes, bytes] = {}
        self._found: list[tuple[str, bytearray]] = []
        self._ended = False
        names = ("part_begin", "part_data", "header_field", "header_value", "header_end", "headers_finished", "end")
        calls: Any = {f"on_{name}": getattr(self, f"_{name}") for name in names}
        try:
            if not boundary:
                raise ValueError("no boundary")
            self._parser = MultipartParser(boundary, calls)
        except (MultipartParseError, ValueError):
            raise Refused(400, "the form has no usable boundary: let your HTTP library write its header") from None

    def feed(self, piece: bytes) -> None:
        """Take the next piece."""
        try:
            self._parser.write(piece)
        except MultipartParseError:
            raise Refused(400, "the body is no form: let your HTTP library write it", headers=_CLOSE) from None

    def files(self) -> list[Sent]:
        """All files, once every piece has been taken."""
        if not self._ended:
            raise Refused(400, "the form breaks off before its end")
        if not self._found:
            raise Refused(400, "the form holds no file: send one as -F image=@FILE does")
        files = []
        for name, content in self._found:
            files.append(Sent(name, bytes(content)))
            content.clear()  # so that no more than one file is held twice
        return files

    def forget(self) -> None:
        """Drop the files, which else stay for as long as form and parser, who refer to each other."""
        self._found.clear()

    def begin(self, name: str) -> None:
        """A file starts."""
        self._found.append((name, bytearray()))

    def begin_field(self, name: str) -> None:
        """A text starts."""
        raise Refused(400, f"the part {name!r} is no file: send files only", headers=_CLOSE)

    def write(self, piece: bytes) -> None:
        """More of the file."""
        self._found[-1][1].extend(piece)  # not a list: pieces may be of one byte each, and cost fifty

    def _part_begin(self) -> None:
        self._parts += 1
        self._headers = {}
        self._name = self._value = b""
        if self._parts > self._count:
            raise Refused(413, f"more than the {self._count} files that one request may hold", headers=_CLOSE)

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b"").decode("latin-1"))
        if b"filename" not in options:
            self.begin_field(options.get(b"name", b"").decode("utf-8", "replace")[:LONGEST_NAME])
        else:
            self.begin(shown_name(options[b"filename"]))

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self.write(data[start:end])

    def _end(self) -> None:
        self._ended = True


class _OneFile(_Form):
    """As a form with one file, which goes to disk."""

    def __init__(self, boundary: bytes, create: Callable[[str], BinaryIO], fields: tuple[str, ...]) -> None:
        super().__init__(boundary, 1 + len(fields))
        self._create = create
        self._allowed = frozenset(fields)
        self._field: str | None = None
        self._fields: dict[str, bytes] = {}
        self._file: BinaryIO | None = None
        self._written = 0

    def begin(self, name: str) -> None:
        if self._file is not None:
            raise Refused(413, "more than one file: send one at a time", headers=_CLOSE)
        self._field = None
        self._file = self._create(name)

    def begin_field(self, name: str) -> None:
        if name not in self._allowed:
            super().begin_field(name)
        self._field, self._fields[name] = name, b""

    def write(self, piece: bytes) -> None:
        if self._field is None:
            assert self._file is not None
            self._written += self._file.write(piece)
            return
        self._fields[self._field] += piece
        if len(self._fields[self._field]) > LONGEST_FIELD:
            raise Refused(413, f"{self._field} is longer than {LONGEST_FIELD} letters", headers=_CLOSE)

    def finished(self, whole: bool) -> dict[str, str]:
        """The form's fields, once every piece has been taken."""
        if not whole and not self._ended:
            raise Refused(400, "the form breaks off before its end")
        if self._file is None or not self._written:
            raise Refused(400, "no file, or an empty one: send an archive or a slide")
        self._file.flush()  # a full disk shows here, where it can be told
        return {name: content.decode("utf-8", "replace") for name, content in self._fields.items()}

    def close(self) -> None:
        """Give the file back."""
        if self._file:
            with suppress(OSError):  # what couldn't be written was told
                self._file.close()


def shown_name(raw: bytes) -> str:
    """A file's name as a client wrote it, without its folders; for people, never a path."""
    name = raw.decode("utf-8", "replace").replace("\\", "/").rpartition("/")[2]
    return without_control(name)[:LONGEST_NAME]
