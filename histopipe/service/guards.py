"""What every request passes before it is answered: who asks, how many at once, and what the answer's headers say."""

from __future__ import annotations

import hmac
import ipaddress
import time
from collections.abc import Callable, Iterable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from histopipe.service.metrics import Metrics
from histopipe.service.problems import busy, problem_response

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
CHANGING = frozenset({"POST", "DELETE"})  # methods that another page's scripts could use without reading the answer
METHODS = CHANGING | {"GET", "HEAD", "PUT", "PATCH", "OPTIONS"}  # that metrics name
COUNTED = frozenset({"/v1/predict"})  # paths whose requests are bounded in number


class Guards:
    """ASGI middleware: token, number of requests, headers, metrics.

    Args:
        app: what answers.
        token: that clients must bring; None where none is asked for.
        full: whether more of `COUNTED` would be refused anyway: told so at once, it costs next to nothing.
        metrics: is told of every request.
        routes: paths that metrics name; any other is `other`, since clients choose paths.
        hosts: names by which clients may call the server, beside those of this machine alone; None where any will do.
    """

    def __init__(
        self,
        app: ASGIApp,
        token: str | None,
        full: Callable[[], bool],
        metrics: Metrics,
        routes: Iterable[str],
        hosts: Iterable[str] | None = None,
    ) -> None:
        self._app, self._full, self._metrics = app, full, metrics
        self._token = token.encode() if token else None
        self._routes = frozenset(routes)
        self._hosts = None if hosts is None else frozenset(hosts)

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
        elif self._hosts is not None and (foreign := _foreign(scope, self._hosts)):
            await problem_response(*foreign)(scope, receive, send)
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
        method = scope["method"] if scope["method"] in METHODS else "other"
        self._metrics.requests.labels(route, method if route != "other" else "any", status).inc()
        self._metrics.seconds.labels(route).observe(seconds)


def _foreign(scope: Scope, hosts: frozenset[str]) -> tuple[int, str] | None:
    """Why a request may come from a web page of somebody else's, which a browser on this machine shows."""
    headers: dict[bytes, str] = {name: value.decode("latin-1").strip().lower() for name, value in scope["headers"]}
    for called in (value for name, value in scope["headers"] if name == b"host"):
        name = _host_name(called.decode("latin-1").strip().lower())
        if name not in hosts and not _is_this_machine(name):
            return 421, f"this server isn't {name[:100]!r}: set a token, or say --no-token, to serve by other names"
    if scope["method"] in CHANGING:
        origin = headers.get(b"origin")
        ours = origin is None or origin.partition("://")[2] == headers.get(b"host", "")
        if headers.get(b"sec-fetch-site") == "cross-site" or not ours:
            return 403, "other web pages may not use this server: set a token, or say --no-token"
    return None


def _host_name(host: str) -> str:
    """Without its port."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def _is_this_machine(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")
