"""uvicorn's HTTP protocol with a limit on the time that a client may take to send its headers.

uvicorn has none: a connection that sends a header every few seconds would stay for ever, and a thousand of them would
keep everybody else out.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol


def patient_for(seconds: float) -> type[asyncio.Protocol]:
    """The protocol, for `uvicorn.Config(http=...)`.

    Args:
        seconds: from a connection's start, or the first byte of a later request, to the end of the headers.
    """

    class Impatient(AutoHTTPProtocol):  # type: ignore[valid-type, misc]  # h11's or httptools', whichever is installed
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait_for_headers()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop_waiting()
            else:
                self._wait_for_headers()

        def connection_lost(self, problem: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(problem)

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
