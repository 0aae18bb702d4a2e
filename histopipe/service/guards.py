"""Checks that every request passes first: token, host, origin and load; also response headers and metrics."""

from __future__ import annotations

import hmac
import ipaddress
import time
from collections.abc import Callable, Iterable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from histopipe.service.metrics import Metrics
from histopipe.service.problems import busy_error, problem_response

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
GUARDED = ("/v1/", "/metrics")  # paths that need the token; the page itself contains no data
CHANGING = frozenset({"POST", "DELETE"})  # methods that scripts of another page could use without reading the response
METHODS = CHANGING | {"GET", "HEAD", "PUT", "PATCH", "OPTIONS"}  # methods that metrics name
COUNTED = frozenset({"/v1/predict"})  # paths whose number of simultaneous requests is limited


class RequestGuard:
    """ASGI middleware that checks every request, adds security headers to the response and counts both.

    Args:
        app: the application that answers admitted requests.
        token: the token that clients must send; None to ask for none.
        is_full: returns whether further requests to `COUNTED` paths would be refused anyway; refusing them here costs
            next to nothing.
        metrics: counts every request.
        routes: paths that metrics name; all others are counted as `other`, since clients can invent paths.
        hosts: host names by which clients may call the service, besides those of this machine; None to allow all.
    """

    def __init__(
        self,
        app: ASGIApp,
        token: str | None,
        is_full: Callable[[], bool],
        metrics: Metrics,
        routes: Iterable[str],
        hosts: Iterable[str] | None = None,
    ) -> None:
        self._app, self._is_full, self._metrics = app, is_full, metrics
        self._token = token.encode() if token else None
        self._routes = frozenset(routes)
        self._hosts = None if hosts is None else frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        try:
            await self._check(scope, receive, send_with_headers)
        finally:
            self._count(scope, status, time.perf_counter() - started)

    async def _check(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if self._token and path.startswith(GUARDED) and not self._has_token(scope):
            headers = {"WWW-Authenticate": "Bearer"}
            refusal = problem_response(401, "a token is needed: send Authorization: Bearer TOKEN", headers=headers)
            await refusal(scope, receive, send)
        elif self._hosts is not None and (foreign := _foreign_page_problem(scope, self._hosts)):
            await problem_response(*foreign)(scope, receive, send)
        elif path in COUNTED and self._is_full():
            await busy_error("too many requests at the same time", 1).response()(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _has_token(self, scope: Scope) -> bool:
        assert self._token
        header = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, token = header.partition(b" ")
        return hmac.compare_digest(token.strip(), self._token) and scheme.lower() == b"bearer"

    def _count(self, scope: dict[str, Any] | Any, status: int, seconds: float) -> None:
        path = getattr(scope.get("route"), "path", scope["path"])
        route = path if path in self._routes else "other"
        method = scope["method"] if scope["method"] in METHODS else "other"
        self._metrics.requests.labels(route, method if route != "other" else "any", status).inc()
        self._metrics.seconds.labels(route).observe(seconds)


def _foreign_page_problem(scope: Scope, hosts: frozenset[str]) -> tuple[int, str] | None:
    """Return status and reason if a request may come from another site's page in a browser on this machine."""
    headers: dict[bytes, str] = {name: value.decode("latin-1").strip().lower() for name, value in scope["headers"]}
    for value in (value for name, value in scope["headers"] if name == b"host"):
        name = _host_name(value.decode("latin-1").strip().lower())
        if name not in hosts and not _is_this_machine(name):
            return 421, f"this service isn't {name[:100]!r}: set a token, or say --no-token, to serve by other names"
    if scope["method"] in CHANGING:
        origin = headers.get(b"origin")
        same_origin = origin is None or origin.partition("://")[2] == headers.get(b"host", "")
        if headers.get(b"sec-fetch-site") == "cross-site" or not same_origin:
            return 403, "other web pages may not use this service: set a token, or say --no-token"
    return None


def _host_name(host: str) -> str:
    """Return a host header without its port."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def _is_this_machine(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")
