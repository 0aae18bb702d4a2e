"""uvicorn's HTTP protocol with limits on the time and the bytes that clients may take to send and to read.

uvicorn has no such limits. A connection that sends a header every few seconds, or never reads its response, would stay
open for ever, and two thousand of them would lock everyone else out; one that never ends its headers would fill the
memory.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import socket
import termios
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, ClassVar, cast

from starlette.requests import Request
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from histopipe.service.problems import problem_response
from histopipe.service.reading import MIN_RATE

LONGEST_HEADERS = 64 * 2**10  # bytes of a request's first line and headers, and of a body's trailers
CROWDED_SHARE, CROWDED_SECONDS = 0.5, 2.0  # share of connections in use beyond which clients get only so much time
FULL_SECONDS = 0.5  # time that clients get while there are no connections left
STOPPING_SECONDS = 5.0  # time that clients get while the service stops
MAX_PIPELINED = 4  # requests that may wait behind an unanswered one, none in a crowd; ordinary clients send none
SPARE = 256  # connections beyond the limit that still get a response, which reports it; further ones get none
ESTABLISHED = 1  # Linux's number for the state of an open connection
GONE_KEY = "histopipe.gone"  # key of a function in a request's scope

LOG = logging.getLogger(__name__)


def gone_check(request: Request) -> Callable[[], bool]:
    """Return a function that checks whether a request's client went away; it can be called from any thread."""
    is_gone: Callable[[], bool] = request.scope.get(GONE_KEY, lambda: False)
    return is_gone


def close_slow_connections(
    connections: Iterable[Any], max_connections: int, seconds: float, stopping: bool = False
) -> bool:
    """Close connections whose clients take too long to send or to read; must be called regularly.

    Args:
        connections: connections whose class `make_protocol` returned.
        max_connections: number of connections that are allowed; the more are in use, the less time clients get.
        seconds: time that clients get while few connections are in use.
        stopping: whether the service is about to end.

    Returns:
        Whether so many connections are in use that the function should be called again soon.
    """
    now, present = asyncio.get_running_loop().time(), list(connections)
    crowded = len(present) > CROWDED_SHARE * max_connections
    patience = STOPPING_SECONDS if stopping else seconds
    if crowded:
        patience = FULL_SECONDS if len(present) >= max_connections else CROWDED_SECONDS
    for connection in present:
        connection.close_if_slow(now, min(seconds, patience), crowded or stopping)
    return crowded


class CountingTransport:
    """A transport that counts the bytes written to it.

    Args:
        transport: asyncio transport to write to; other attributes are passed through.
    """

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._write, self._is_closing = transport.write, transport.is_closing
        self.written = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send data, unless the client went away meanwhile, for which some transports raise an exception."""
        if self._is_closing():
            LOG.warning("a client went away before its response was sent")
            return
        self.written += len(data)
        self._write(data)

    @property
    def is_abandoned(self) -> bool:
        """Return whether the client closed the connection, which asyncio doesn't report while reading is paused."""
        with suppress(OSError, AttributeError):  # only Linux reports it
            state = self._transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
            return state[0] != ESTABLISHED
        return False

    @property
    def acknowledged(self) -> int:
        """Number of bytes that the client has acknowledged."""
        return self.written - int(self._transport.get_write_buffer_size()) - self._in_kernel()

    def _in_kernel(self) -> int:
        """Return the number of bytes that the kernel still keeps for the client, which can be megabytes."""
        with suppress(OSError, AttributeError, ValueError):  # only Linux reports it
            descriptor = self._transport.get_extra_info("socket").fileno()
            return int.from_bytes(fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)), "little")
        return 0


class TransferProgress:
    """Measures how fast a client sends or reads, counting only the time in which the service waits for it."""

    def __init__(self) -> None:
        self._start: tuple[float, int] | None = None

    def stop(self) -> None:
        """Record that it is not the client's turn."""
        self._start = None

    def is_slow(self, now: float, transferred: int, patience: float) -> bool:
        """Return whether fewer than `MIN_RATE` bytes per second were transferred since the last measurement.

        A measurement takes `patience` seconds; False is returned before its end, and at its end the next one begins.

        Args:
            now: present time in seconds.
            transferred: number of bytes so far.
            patience: length of a measurement, in seconds.
        """
        if self._start is None:
            self._start = now, transferred
        elapsed = now - self._start[0]
        if elapsed < patience:
            return False
        slow = transferred - self._start[1] < MIN_RATE * elapsed
        self._start = now, transferred
        return slow


class HeadersTooLarge(Exception):
    """The headers of a request are too large; raised inside the parser to stop it."""


class PipelineTooLong(Exception):
    """A client has sent too many requests ahead; raised inside the parser to stop it."""


class TimeLimitedProtocol(HttpToolsProtocol):
    """A connection that is closed if its client takes too long to send or to read.

    Attributes:
        max_connections: number of connections that are allowed.
    """

    max_connections: ClassVar[int]
    _waiting_since = 0.0  # when it became the client's turn to send headers
    _headers_begun = False  # whether it has sent a part of them
    _received = 0  # bytes
    _lost = False
    _header_bytes = 0  # of this request's headers, as far as they are parsed
    _unparsed = 0  # bytes received since the parser last reported anything
    _has_parsed = _too_large = _too_many = False

    def connection_made(self, transport: Any) -> None:
        """Start to count what the client transfers; abort connections far beyond the limit."""
        super().connection_made(cast(Any, CountingTransport(transport)))
        self._waiting_since = self.loop.time()
        self._sending, self._reading = TransferProgress(), TransferProgress()
        if len(self.connections) > self.max_connections + SPARE:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        """Parse what the client sends, and refuse headers that are too long."""
        if self.transport.is_closing():
            return
        self._received += len(data)
        if not self._headers_begun:
            self._headers_begun, self._waiting_since = True, self.loop.time()
        self._has_parsed = False
        super().data_received(data)
        self._unparsed = 0 if self._has_parsed else self._unparsed + len(data)
        if self._unparsed > LONGEST_HEADERS and not self.transport.is_closing():
            self._refuse_headers()

    def connection_lost(self, problem: Exception | None) -> None:
        """Record that the client went away."""
        self._lost = True
        super().connection_lost(problem)

    def on_response_complete(self) -> None:
        """Record that it is the client's turn again."""
        self._waiting_since, self._headers_begun = self.loop.time(), False
        super().on_response_complete()

    def close_if_slow(self, now: float, patience: float, crowded: bool) -> None:
        """Close the connection if its client takes too long.

        Args:
            now: time of the loop's clock.
            patience: seconds that the client may take.
            crowded: whether many connections are open: then bodies must arrive at `MIN_RATE` (which otherwise only
                their reader checks), and no pipelined request is accepted.
        """
        transport: Any = self.transport
        if (self.flow.read_paused and transport.is_abandoned) or (crowded and self.pipeline):
            transport.abort()
            return
        if unread := transport.get_write_buffer_size():
            slow = self._reading.is_slow(now, transport.acknowledged, patience)
        else:
            self._reading.stop()
            slow = not transport.is_closing() and self._sends_slowly(now, patience, crowded)
        if slow and unread:
            transport.abort()
        elif slow:
            transport.close()

    def _sends_slowly(self, now: float, patience: float, crowded: bool) -> bool:
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            self._sending.stop()
            return now - self._waiting_since >= patience
        awaits_body = cycle.more_body and not self.flow.read_paused and not cycle.waiting_for_100_continue
        if not awaits_body or not crowded:
            self._sending.stop()
            return False
        return self._sending.is_slow(now, self._received, patience)

    def on_message_begin(self) -> None:
        """Start to count a request's headers."""
        self._header_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Count a request's first line as part of its headers."""
        self._count_headers(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header."""
        self._count_headers(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Accept a request, unless too many are pipelined before it."""
        unanswered = self.cycle is not None and not self.cycle.response_complete
        allowed = 0 if len(self.connections) > CROWDED_SHARE * self.max_connections else MAX_PIPELINED
        if unanswered and len(self.pipeline) >= allowed:
            self._too_many = True
            raise PipelineTooLong
        self._has_parsed = True
        self.scope[GONE_KEY] = lambda: self._lost  # type: ignore[literal-required]
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Record that the parser has made progress."""
        self._has_parsed = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Resume reading after a request."""
        super().on_message_complete()
        if not self.pipeline:
            self.flow.resume_reading()  # the body's last piece paused it; a closed connection would go unnoticed

    def send_400_response(self, msg: str) -> None:
        """Answer a request that can't be parsed or that was stopped here."""
        if self._too_many:
            self.transport.abort()
        elif self._too_large:
            self._refuse_headers()
        else:
            super().send_400_response(msg)

    def _count_headers(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > LONGEST_HEADERS:
            self._too_large = True
            raise HeadersTooLarge

    def _refuse_headers(self) -> None:
        """Send status 431, unless it would end up in the middle of a response, and close the connection."""
        if self.cycle is None or self.cycle.response_complete:
            response = problem_response(431, f"more than {LONGEST_HEADERS:,} bytes of headers: send fewer")
            lines = [b"%s: %s\r\n" % header for header in [*response.raw_headers, (b"connection", b"close")]]
            head = b"HTTP/1.1 431 Request Header Fields Too Large\r\n" + b"".join(lines)
            self.transport.write(head + b"\r\n" + bytes(response.body))
        self.transport.close()


def make_protocol(max_connections: int) -> type[asyncio.Protocol]:
    """Return a protocol class for `uvicorn.Config(http=...)`; `close_slow_connections` watches its connections.

    Args:
        max_connections: number of connections that are allowed.
    """
    attributes = {"max_connections": max_connections}
    return cast(type[asyncio.Protocol], type("LimitedProtocol", (TimeLimitedProtocol,), attributes))
