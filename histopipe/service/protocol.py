"""uvicorn's HTTP protocol with limits on the time and the bytes that a client may take to send its headers.

uvicorn has neither: a connection that sends a header every few seconds would stay for ever, and a thousand of them
would keep everybody else out; one that never ends its headers would fill the memory.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from histopipe.service.problems import problem_response

LONGEST_HEADERS = 64 * 2**10  # bytes of a request's first line and headers, and of a body's trailers


class HeadersTooLarge(Exception):
    """Raised into the parser, so that it stops."""


def patient_for(seconds: float) -> type[asyncio.Protocol]:
    """The protocol, for `uvicorn.Config(http=...)`.

    Args:
        seconds: from a connection's start, or the first byte of a later request, to the end of the headers.
    """

    class Impatient(HttpToolsProtocol):
        _timer: asyncio.TimerHandle | None = None
        _headed = 0  # bytes of this request's headers that the parser has told
        _untold = 0  # bytes received since it last told anything
        _told = _too_large = False

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait_for_headers()

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            self._told = False
            super().data_received(data)
            self._untold = 0 if self._told else self._untold + len(data)
            if self._untold > LONGEST_HEADERS and not self.transport.is_closing():
                self._refuse()
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop_waiting()
            else:
                self._wait_for_headers()

        def connection_lost(self, problem: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(problem)

        def on_message_begin(self) -> None:
            self._headed = 0
            super().on_message_begin()

        def on_url(self, url: bytes) -> None:
            self._take(len(url))
            super().on_url(url)

        def on_header(self, name: bytes, value: bytes) -> None:
            self._take(len(name) + len(value) + 4)
            super().on_header(name, value)

        def on_headers_complete(self) -> None:
            self._told = True
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            self._told = True
            super().on_body(body)

        def send_400_response(self, msg: str) -> None:
            if self._too_large:
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

        def _wait_for_headers(self) -> None:
            if self._timer is None and not self.transport.is_closing():
                self._timer = self.loop.call_later(seconds, self._give_up)

        def _stop_waiting(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _give_up(self) -> None:
            self._timer = None
            if self.cycle is None or self.cycle.response_complete:
                self.transport.close()

    return Impatient
