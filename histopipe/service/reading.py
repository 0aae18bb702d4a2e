"""Read request bodies within limits on their size, number of files, duration and memory."""

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

from histopipe.core.names import remove_control_characters
from histopipe.service.problems import RequestError

DRAIN_BYTES, DRAIN_SECONDS = 64 * 2**20, 5.0  # read of a refused body: some clients read no response before all is sent
MIN_RATE = 16 * 2**10  # bytes per second that a client must transfer on average, where a transfer may take long
TRIM_BYTES = 64 * 2**20  # bytes of released bodies after which the C library is asked to return memory
LONGEST_NAME = 200  # characters of a file's name that are kept
LONGEST_FIELD = 100  # bytes of a form's text field
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

_BYTES = re.compile("[0-9]{1,20}")  # longer numbers exceed any limit; such bodies are read up to the limit
_CLOSE = {"Connection": "close"}  # so that the rest of the body isn't taken for the next request


class UploadedFile(NamedTuple):
    """A file that a client sent.

    Attributes:
        name: name of the file, for display; empty if the client sent none.
        content: bytes of the file.
    """

    name: str
    content: bytes


class MemoryShare:
    """The memory that one request uses; returned to the budget once its last user releases it.

    Args:
        budget: memory of all requests.
    """

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self._taken, self._users = 0, 1
        self._lock = threading.Lock()

    def take(self, size: int) -> None:
        """Take `size` more bytes.

        Raises:
            RequestError: the budget is used up.
        """
        self._budget.take(size)
        with self._lock:
            self._taken += size

    def retain(self) -> None:
        """Add a user of the memory, who must call `release` at its end."""
        with self._lock:
            self._users += 1

    def release(self) -> None:
        """End the use by one user; the last one returns all memory to the budget."""
        with self._lock:
            self._users -= 1
            taken, self._taken = (0, self._taken) if self._users else (self._taken, 0)
        self._budget.give_back(taken)


class MemoryBudget:
    """A limit on the memory that the bodies of all requests use at the same time.

    Args:
        limit: bytes.

    Example:
        >>> budget = MemoryBudget(100)
        >>> with budget.share() as memory:
        ...     memory.take(60)
        ...     budget.held
        60
        >>> budget.held
        0
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = self._released = 0
        self._lock = threading.Lock()

    @property
    def held(self) -> int:
        """Bytes in use."""
        return self._held

    def take_trim_request(self) -> bool:
        """Return whether `TRIM_BYTES` were released since this last returned True, and start to count again."""
        with self._lock:
            if self._released < TRIM_BYTES:
                return False
            self._released = 0
            return True

    def take(self, size: int) -> None:
        """Take `size` bytes.

        Raises:
            RequestError: the budget is used up.
        """
        with self._lock:
            if self._held + size <= self._limit:
                self._held += size
                return
        headers = {**_CLOSE, "Retry-After": "1"}
        raise RequestError(429, "too much is being sent at once: try again later", headers=headers)

    def give_back(self, size: int) -> None:
        """Return `size` bytes."""
        with self._lock:
            self._held -= size
            self._released += size

    @contextmanager
    def share(self) -> Iterator[MemoryShare]:
        """Give one request its share; the request's own use of it ends with the block."""
        share = MemoryShare(self)
        try:
            yield share
        finally:
            share.release()


def trim_memory() -> None:
    """Make the C library return freed memory to the system: it keeps gigabytes after large bodies and images."""
    with suppress(AttributeError, OSError):  # only GNU's C library has this function
        ctypes.CDLL(None).malloc_trim(0)


class TransferLimits(NamedTuple):
    """Limits on the time that a client may take to send a body.

    Attributes:
        total: seconds for the whole body.
        pause: seconds between two pieces, and before `min_rate` is required.
        min_rate: bytes per second, on average since the start.
    """

    total: float
    pause: float
    min_rate: float = 0.0


async def read_files(
    request: Request,
    limit: int,
    count: int,
    transfer_limits: TransferLimits,
    file_types: tuple[str, ...],
    memory: MemoryShare,
) -> list[UploadedFile]:
    """Read all files of a request into memory, in their order.

    Args:
        request: a request whose body is either `multipart/form-data` with files in parts of any name, or one file.
        limit: maximum number of bytes of the body.
        count: maximum number of files.
        transfer_limits: time that the client may take.
        file_types: media types of a body that is one file; an entry that ends with `/` matches all its subtypes.
        memory: memory of the request, from which the body is taken.

    Raises:
        RequestError: the body is too large, too slow or malformed, or has too many files or none.
    """
    media, boundary = _media_type(request)
    if media == "multipart/form-data":
        form = _FormParser(boundary, count)
        try:
            async for piece in read_body(request, limit, transfer_limits):
                memory.take(len(piece))
                form.feed(piece)
            return form.files()
        finally:
            form.clear()
    if not media.startswith(file_types):
        detail = "send multipart/form-data with one or many files, or one file as the body"
        raise await drain_and_refuse(request, 415, detail)
    content = bytearray()
    async for piece in read_body(request, limit, transfer_limits):
        memory.take(len(piece))
        content += piece
    if not content:
        raise RequestError(400, "the body is empty: send an image")
    return [UploadedFile("", bytes(content))]


async def save_file(
    request: Request,
    limit: int,
    transfer_limits: TransferLimits,
    file_types: tuple[str, ...],
    create: Callable[[str], BinaryIO],
    fields: tuple[str, ...] = (),
) -> dict[str, str]:
    """Write the one file of a request to disk, piece by piece.

    Args:
        request, limit, transfer_limits, file_types: as in `read_files`.
        create: opens the file to write; is given its name, which is empty if the file is the whole body.
        fields: names of text fields that a form may contain besides the file.

    Returns:
        The texts of the form's fields, by name.

    Raises:
        RequestError: as in `read_files`, or the disk is full.
    """
    media, boundary = _media_type(request)
    whole = media != "multipart/form-data"
    if whole and not media.startswith(file_types):
        detail = "send multipart/form-data with one file, or the file as the body"
        raise await drain_and_refuse(request, 415, detail)
    form = _SingleFileParser(b"body" if whole else boundary, create, fields)
    try:
        if whole:
            form.begin_file("")
        async for piece in read_body(request, limit, transfer_limits):
            await asyncio.to_thread(form.write if whole else form.feed, piece)
        return await asyncio.to_thread(form.finish, whole)
    except OSError as problem:
        if problem.errno not in DISK_FULL:
            raise
        raise await drain_and_refuse(request, 507, "the service's disk is full: try again later") from None
    finally:
        form.close()


async def read_body(request: Request, limit: int, transfer_limits: TransferLimits) -> AsyncIterator[bytes]:
    """Yield the body of a request piece by piece.

    Raises:
        RequestError: the body has more than `limit` bytes, whatever its header states, or comes too slowly.
    """
    declared = request.headers.get("content-length", "")
    if _BYTES.fullmatch(declared) and int(declared) > limit:
        detail = f"the body has {int(declared):,} bytes; at most {limit:,} are accepted"
        raise await drain_and_refuse(request, 413, detail)
    received, started, stream = 0, time.monotonic(), request.stream()
    end = started + transfer_limits.total
    while True:
        try:
            async with asyncio.timeout(min(transfer_limits.pause, max(0.01, end - time.monotonic()))):
                piece = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise _slow_body_error() from None
        except ClientDisconnect:
            raise RequestError(400, "the client went away", headers=_CLOSE) from None
        received += len(piece)
        seconds = time.monotonic() - started
        if seconds > transfer_limits.pause and received < transfer_limits.min_rate * seconds:
            raise _slow_body_error()
        if received > limit:
            await _drain(stream)
            detail = f"the body is longer than the {limit:,} bytes that are accepted"
            raise RequestError(413, detail, headers=_CLOSE)
        if piece:
            yield piece


def _slow_body_error() -> RequestError:
    return RequestError(408, "the body came too slowly", headers=_CLOSE)


async def drain_and_refuse(request: Request, status: int, detail: str) -> RequestError:
    """Read the rest of a request's body and return the error that refuses the request."""
    await _drain(request.stream())
    return RequestError(status, detail, headers=_CLOSE)


async def _drain(stream: AsyncIterator[bytes]) -> None:
    left = DRAIN_BYTES
    with suppress(TimeoutError, ClientDisconnect, RuntimeError):
        async with asyncio.timeout(DRAIN_SECONDS):
            async for piece in stream:
                left -= len(piece)
                if left < 0:
                    return


def _media_type(request: Request) -> tuple[str, bytes]:
    """Return the media type of a request's body and the boundary of its form."""
    media, options = parse_options_header(request.headers.get("content-type", ""))
    return media.decode("latin-1").lower(), options.get(b"boundary", b"")


class _FormParser:
    """A parser of `multipart/form-data` that is fed piece by piece and keeps the files in memory."""

    def __init__(self, boundary: bytes, count: int) -> None:
        self._count = count
        self._parts = 0
        self._header_name = self._header_text = b""
        self._headers: dict[bytes, bytes] = {}
        self._files: list[tuple[str, bytearray]] = []
        self._ended = False
        names = ("part_begin", "part_data", "header_field", "header_value", "header_end", "headers_finished", "end")
        calls: Any = {f"on_{name}": getattr(self, f"_{name}") for name in names}
        try:
            if not boundary:
                raise ValueError("no boundary")
            self._parser = MultipartParser(boundary, calls)
        except (MultipartParseError, ValueError):
            detail = "the form has no usable boundary: let your HTTP library write its header"
            raise RequestError(400, detail) from None

    def feed(self, piece: bytes) -> None:
        """Parse the next piece."""
        try:
            self._parser.write(piece)
        except MultipartParseError:
            detail = "the body is not a form: let your HTTP library write it"
            raise RequestError(400, detail, headers=_CLOSE) from None

    def files(self) -> list[UploadedFile]:
        """Return all files, once every piece was fed."""
        if not self._ended:
            raise _incomplete_form_error()
        if not self._files:
            raise RequestError(400, "the form has no file: send one as -F image=@FILE does")
        files = []
        for name, content in self._files:
            files.append(UploadedFile(name, bytes(content)))
            content.clear()  # so that only one file at a time is held twice
        return files

    def clear(self) -> None:
        """Drop the files, which would otherwise live as long as the reference cycle of form and parser."""
        self._files.clear()

    def begin_file(self, name: str) -> None:
        """Begin a file."""
        self._files.append((name, bytearray()))

    def begin_field(self, name: str) -> None:
        """Begin a text field; refused here, where only files are accepted."""
        raise RequestError(400, f"the part {name!r} is not a file: send only files", headers=_CLOSE)

    def write(self, piece: bytes) -> None:
        """Append a piece to the present file."""
        self._files[-1][1].extend(piece)  # not to a list: pieces may be single bytes, which cost fifty each there

    def _part_begin(self) -> None:
        self._parts += 1
        self._headers = {}
        self._header_name = self._header_text = b""
        if self._parts > self._count:
            detail = f"more than the {self._count} files that one request may contain"
            raise RequestError(413, detail, headers=_CLOSE)

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_text += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._header_name.lower()] = self._header_text
        self._header_name = self._header_text = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b"").decode("latin-1"))
        if b"filename" not in options:
            self.begin_field(options.get(b"name", b"").decode("utf-8", "replace")[:LONGEST_NAME])
        else:
            self.begin_file(display_name(options[b"filename"]))

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self.write(data[start:end])

    def _end(self) -> None:
        self._ended = True


class _SingleFileParser(_FormParser):
    """A parser of a form with one file, which it writes to disk, and short text fields."""

    def __init__(self, boundary: bytes, create: Callable[[str], BinaryIO], fields: tuple[str, ...]) -> None:
        super().__init__(boundary, 1 + len(fields))
        self._create = create
        self._allowed = frozenset(fields)
        self._field: str | None = None
        self._fields: dict[str, bytes] = {}
        self._file: BinaryIO | None = None
        self._written = 0

    def begin_file(self, name: str) -> None:
        if self._file is not None:
            raise RequestError(413, "more than one file: send one at a time", headers=_CLOSE)
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
            detail = f"{self._field} is longer than {LONGEST_FIELD} characters"
            raise RequestError(413, detail, headers=_CLOSE)

    def finish(self, whole: bool) -> dict[str, str]:
        """Flush the file and return the form's fields, once every piece was fed.

        Args:
            whole: whether the file is the whole body.
        """
        if not whole and not self._ended:
            raise _incomplete_form_error()
        if self._file is None or not self._written:
            raise RequestError(400, "no file, or an empty one: send an archive or a slide")
        self._file.flush()  # a full disk is noticed here, where it can still be reported
        return {name: content.decode("utf-8", "replace") for name, content in self._fields.items()}

    def close(self) -> None:
        """Close the file."""
        if self._file:
            with suppress(OSError):  # failed writes were reported before
                self._file.close()


def _incomplete_form_error() -> RequestError:
    return RequestError(400, "the form is incomplete: its end is missing")


def display_name(raw: bytes) -> str:
    """Return a file's name as the client wrote it, without its folders; for display, never used as a path."""
    name = raw.decode("utf-8", "replace").replace("\\", "/").rpartition("/")[2]
    return remove_control_characters(name)[:LONGEST_NAME]
