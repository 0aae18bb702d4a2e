"""What every request passes before it is answered: who asks, how many at once, and what the answer's headers say."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Iterable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from histopipe.service.grading import busy
from histopipe.service.metrics import Metrics
from histopipe.service.problems import problem_response

CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", CONTENT_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)
GUARDED = ("/v1/", "/metrics")  # paths that want the token; the page itself holds nothing
COUNTED = frozenset({"/v1/predict"})  # paths whose requests are bounded in number


class Guards:
    """ASGI middleware: token, number of requests, headers, metrics.

    Args:
        app: what answers.
        token: that clients must bring; None where none is asked for.
        full: whether more of `COUNTED` would be refused anyway: told so at once, it costs next to nothing.
        metrics: is told of every request.
        routes: paths that metrics name; any other is `other`, since clients choose paths.
    """

    def __init__(
        self, app: ASGIApp, token: str | None, full: Callable[[], bool], metrics: Metrics, routes: Iterable[str]
    ) -> None:
        self._app, self._full, self._metrics = app, full, metrics
        self._token = token.encode() if token else None
        self._routes = frozenset(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        try:
            await self._admitted(scope, receive, answer)
        finally:
            self._count(scope, status, time.perf_counter() - began)

    async def _admitted(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if self._token and path.startswith(GUARDED) and not self._brings_token(scope):
            headers = {"WWW-Authenticate": "Bearer"}
            refusal = problem_response(401, "a token is needed: send Authorization: Bearer TOKEN", headers=headers)
            await refusal(scope, receive, send)
        elif path in COUNTED and self._full():
            await busy("too many requests at the same time", 1).response()(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _brings_token(self, scope: Scope) -> bool:
        assert self._token
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, token = given.partition(b" ")
        return hmac.compare_digest(token.strip(), self._token) and scheme.lower() == b"bearer"

    def _count(self, scope: dict[str, Any] | Any, status: int, seconds: float) -> None:
        found = getattr(scope.get("route"), "path", scope["path"])
        route = found if found in self._routes else "other"
        self._metrics.requests.labels(route, scope["method"] if route != "other" else "any", status).inc()
        self._metrics.seconds.labels(route).observe(seconds)
