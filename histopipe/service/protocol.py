"""uvicorn's HTTP protocol with limits on the time and the bytes that clients may take to send and to read.

uvicorn has neither: a connection that sends a header every few seconds, or that never reads what it asked for, would
stay for ever, and two thousand of them would keep everybody else out; one that never ends its headers would fill the
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
from histopipe.service.reading import SLOWEST

LONGEST_HEADERS = 64 * 2**10  # bytes of a request's first line and headers, and of a body's trailers
CROWDED, CROWDED_SECONDS = 0.5, 2.0  # share of all connections beyond which no client is waited for longer
FULL_SECONDS = 0.5  # the same while there are no connections left
STOPPING_SECONDS = 5.0  # the same while the server ends
MOST_PIPELINED = 4  # requests that may wait behind one that isn't answered, none in a crowd: usual clients send none
SPARE = 256  # connections beyond the limit that get an answer, which says so; others get none
ESTABLISHED = 1  # as Linux numbers the states of a connection
GONE = "histopipe.gone"  # in a request's scope: a function

LOG = logging.getLogger(__name__)


def gone_of(request: Request) -> Callable[[], bool]:
    """Return a function, for any thread, that says whether a request's client went away."""
    found: Callable[[], bool] = request.scope.get(GONE, lambda: False)
    return found


def let_slow_ones_go(connections: Iterable[Any], most: int, seconds: float, hurry: bool = False) -> bool:
    """Close connections whose clients take too long to send or to read; to be called now and then.

    Args:
        connections: of protocols that `patient_for` made.
        most: that there may be; the more there are, the less patient it is.
        seconds: that a client may take as long as there are few.
        hurry: whether the server is about to end.

    Returns:
        Whether there are so many that it should soon be called again.
    """
    now, present = asyncio.get_running_loop().time(), list(connections)
    crowded = len(present) > CROWDED * most
    patience = STOPPING_SECONDS if hurry else seconds
    if crowded:
        patience = FULL_SECONDS if len(present) >= most else CROWDED_SECONDS
    for connection in present:
        connection.let_go_if_slow(now, min(seconds, patience), crowded or hurry)
    return crowded


class Outlet:
    """A transport that counts what is written to it."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._write, self._is_closing = transport.write, transport.is_closing
        self.written = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send it, unless the client went away meanwhile, for which transports have an exception."""
        if self._is_closing():
            LOG.warning("a client went away before its answer was sent")
            return
        self.written += len(data)
        self._write(data)

    @property
    def is_left(self) -> bool:
        """Whether the client closed the connection, which isn't told while nothing is read from it."""
        with suppress(OSError, AttributeError):  # other systems don't tell
            state = self._transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
            return state[0] != ESTABLISHED
        return False

    @property
    def taken(self) -> int:
        """Bytes that the client has acknowledged."""
        return self.written - int(self._transport.get_write_buffer_size()) - self._in_kernel()

    def _in_kernel(self) -> int:
        """Bytes that the kernel keeps until the client takes them; it may have room for megabytes."""
        with suppress(OSError, AttributeError, ValueError):  # other systems don't tell
            descriptor = self._transport.get_extra_info("socket").fileno()
            return int.from_bytes(fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)), "little")
        return 0


class Progress:
    """How much a client moves while it is its turn."""

    def __init__(self) -> None:
        self._began: tuple[float, int] | None = None

    def stop(self) -> None:
        """It isn't its turn."""
        self._began = None

    def is_slow(self, now: float, moved: int, patience: float) -> bool:
        """Whether in the last `patience` seconds it moved fewer than `SLOWEST` bytes a second.

        Args:
            now: in seconds.
            moved: bytes so far.
            patience: seconds.
        """
        if self._began is None:
            self._began = now, moved
        lasted = now - self._began[0]
        if lasted < patience:
            return False
        slow = moved - self._began[1] < SLOWEST * lasted
        self._began = now, moved
        return slow


class HeadersTooLarge(Exception):
    """Raised into the parser, so that it stops."""


class PipelineTooLong(Exception):
    """Raised into the parser, so that it stops."""


class ImpatientProtocol(HttpToolsProtocol):
    """A connection whose client is waited for as long as the server can spare it.

    Attributes:
        most: connections that there may be.
    """

    most: ClassVar[int]
    _since = 0.0  # when it became the client's turn to send headers
    _begun = False  # whether it has sent some of them
    _received = 0  # bytes
    _lost = False
    _headed = 0  # bytes of this request's headers that the parser has told
    _untold = 0  # bytes received since it last told anything
    _told = _too_large = _too_many = False

    def connection_made(self, transport: Any) -> None:
        """Begin to count what the client moves; one too many is hung up on."""
        super().connection_made(cast(Any, Outlet(transport)))
        self._since = self.loop.time()
        self._sends, self._reads = Progress(), Progress()
        if len(self.connections) > self.most + SPARE:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        """Take what the client sends, unless it is more than headers may be."""
        if self.transport.is_closing():
            return
        self._received += len(data)
        if not self._begun:
            self._begun, self._since = True, self.loop.time()
        self._told = False
        super().data_received(data)
        self._untold = 0 if self._told else self._untold + len(data)
        if self._untold > LONGEST_HEADERS and not self.transport.is_closing():
            self._refuse()

    def connection_lost(self, problem: Exception | None) -> None:
        """Let readers of the request know that its client went away."""
        self._lost = True
        super().connection_lost(problem)

    def on_response_complete(self) -> None:
        """Make it the client's turn again."""
        self._since, self._begun = self.loop.time(), False
        super().on_response_complete()

    def let_go_if_slow(self, now: float, patience: float, crowded: bool) -> None:
        """Close the connection if its client takes too long.

        Args:
            now: of the loop's clock.
            patience: seconds.
            crowded: whether a body must come at a pace, which else its reader sees to, and no request ahead of
                the answers.
        """
        outlet: Any = self.transport
        if (self.flow.read_paused and outlet.is_left) or (crowded and self.pipeline):
            outlet.abort()
            return
        if unread := outlet.get_write_buffer_size():
            slow = self._reads.is_slow(now, outlet.taken, patience)
        else:
            self._reads.stop()
            slow = not outlet.is_closing() and self._sends_slowly(now, patience, crowded)
        if slow and unread:
            outlet.abort()
        elif slow:
            outlet.close()

    def _sends_slowly(self, now: float, patience: float, crowded: bool) -> bool:
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            self._sends.stop()
            return now - self._since >= patience
        waits = cycle.more_body and not self.flow.read_paused and not cycle.waiting_for_100_continue
        if not waits or not crowded:
            self._sends.stop()
            return False
        return self._sends.is_slow(now, self._received, patience)

    def on_message_begin(self) -> None:
        """Begin to count a request's headers."""
        self._headed = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Count the first line with the headers."""
        self._take(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header."""
        self._take(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Take a request, unless too many wait before it."""
        waits = self.cycle is not None and not self.cycle.response_complete
        ahead = 0 if len(self.connections) > CROWDED * self.most else MOST_PIPELINED
        if waits and len(self.pipeline) >= ahead:
            self._too_many = True
            raise PipelineTooLong
        self._told = True
        self.scope[GONE] = lambda: self._lost  # type: ignore[literal-required]
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Note that what was received is told."""
        self._told = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Go on reading after a request."""
        super().on_message_complete()
        if not self.pipeline:
            self.flow.resume_reading()  # paused by the body's last piece; else nobody sees the client go away

    def send_400_response(self, msg: str) -> None:
        """Answer what can't be parsed, or was stopped here."""
        if self._too_many:
            self.transport.abort()
        elif self._too_large:
            self._refuse()
        else:
            super().send_400_response(msg)

    def _take(self, size: int) -> None:
        self._headed += size
        if self._headed > LONGEST_HEADERS:
            self._too_large = True
            raise HeadersTooLarge

    def _refuse(self) -> None:
        """Say why, unless that would land in the middle of an answer, and hang up."""
        if self.cycle is None or self.cycle.response_complete:
            answer = problem_response(431, f"more than {LONGEST_HEADERS:,} bytes of headers: send fewer")
            lines = [b"%s: %s\r\n" % header for header in [*answer.raw_headers, (b"connection", b"close")]]
            head = b"HTTP/1.1 431 Request Header Fields Too Large\r\n" + b"".join(lines)
            self.transport.write(head + b"\r\n" + bytes(answer.body))
        self.transport.close()


def patient_for(most: int) -> type[asyncio.Protocol]:
    """Make the protocol, for `uvicorn.Config(http=...)`; `let_slow_ones_go` looks after its connections.

    Args:
        most: connections that there may be.
    """
    return cast(type[asyncio.Protocol], type("Impatient", (ImpatientProtocol,), {"most": most}))
