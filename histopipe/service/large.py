"""Answers that take long to make and much to hold: few are made at a time, and they count as memory until taken."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from histopipe.service.decoding import GONE
from histopipe.service.problems import Refused, busy
from histopipe.service.reading import Memory, Share

AT_ONCE, WAITING = 2, 32  # requests
PIECE = 64 * 2**10  # bytes that are sent before the client must have taken some


class Turns:
    """Let few requests at a time read what jobs left on disk, and few others wait for that."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0

    @asynccontextmanager
    async def take(self, gone: Callable[[], bool]) -> AsyncIterator[None]:
        """Wait for a turn, which ends with the block.

        Args:
            gone: whether the client went away; nothing is begun for it then.

        Raises:
            Refused: too many wait.
        """
        if self._waiting >= WAITING:
            raise busy("too many results are being read", 2)
        self._waiting += 1
        try:
            await self._turn.acquire()
        finally:
            self._waiting -= 1
        try:
            if gone():
                raise Refused(400, GONE)
            yield
        finally:
            self._turn.release()


def json_answer(content: Any, memory: Memory) -> Response:
    """Return an answer of any size, which counts as memory until it is sent.

    Raises:
        Refused: there is none left.
    """
    body = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    share = Share(memory)
    try:
        share(len(body))
    except Refused:
        share.release()
        raise
    return _Held(body, share)


class _Held(Response):
    """An answer that is sent as its client takes it."""

    def __init__(self, body: bytes, share: Share) -> None:
        super().__init__(body, media_type="application/json")
        self._share = share

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            for start in range(0, len(self.body), PIECE):
                piece = bytes(self.body[start : start + PIECE])
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            self._share.release()
