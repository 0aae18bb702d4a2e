"""Large responses: few are prepared at a time, and each counts as memory until its client has received it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from histopipe.service.decoding import CLIENT_GONE
from histopipe.service.problems import RequestError, busy_error
from histopipe.service.reading import MemoryBudget, MemoryShare

MAX_READING, MAX_WAITING = 2, 32  # requests
PIECE = 64 * 2**10  # bytes that are sent before the client must have received some


class ReadLimiter:
    """A limit on the number of requests that read job results from disk at the same time, and of those that wait to."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(MAX_READING)
        self._waiting = 0

    @asynccontextmanager
    async def turn(self, is_gone: Callable[[], bool]) -> AsyncIterator[None]:
        """Wait for a turn, which lasts as long as the block.

        Args:
            is_gone: returns whether the client went away; its block is then not run.

        Raises:
            RequestError: too many requests wait, or the client went away.
        """
        if self._waiting >= MAX_WAITING:
            raise busy_error("too many results are being read", 2)
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        try:
            if is_gone():
                raise RequestError(400, CLIENT_GONE)
            yield
        finally:
            self._free.release()


def json_response(content: Any, budget: MemoryBudget) -> Response:
    """Return a JSON response of any size, which counts as memory until it is sent.

    Raises:
        RequestError: the memory budget is used up.
    """
    body = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    memory = MemoryShare(budget)
    try:
        memory.take(len(body))
    except RequestError:
        memory.release()
        raise
    return _CountedResponse(body, memory)


class _CountedResponse(Response):
    """A response that is sent at the pace of its client and then releases its memory."""

    def __init__(self, body: bytes, memory: MemoryShare) -> None:
        super().__init__(body, media_type="application/json")
        self._memory = memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response piece by piece."""
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            for start in range(0, len(self.body), PIECE):
                piece = bytes(self.body[start : start + PIECE])
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            self._memory.release()
