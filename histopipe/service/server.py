"""The process of the service: its address, its token, its start and its end."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import resource
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from histopipe.core.errors import ServiceError
from histopipe.service.limits import Limits
from histopipe.service.models import Model, ModelReloader, ModelRequest, freeze_loaded_objects, load_copy

TOKEN_VARIABLE = "HISTOPIPE_TOKEN"
SHORTEST_TOKEN = 16  # characters: shorter tokens can be guessed by trying
STOP_SECONDS = 20  # for open requests, once the service is asked to stop; ending jobs takes up to 8 more
MAX_CONNECTIONS = 2048  # if the system lets the process open as many files
BACKLOG = MAX_CONNECTIONS  # connections of a burst beyond it succeed when TCP tries again, a second later
SEND_BUFFER = 512 * 2**10  # bytes that the system keeps for a client that doesn't read; by default it keeps megabytes
OTHER_FILES = 512  # that the process opens besides its connections
CHECK_TICKS = 5  # of uvicorn, a tenth of a second each, between two searches for slow clients


@dataclass(frozen=True)
class ListenAddress:
    """The address at which the service listens.

    Attributes:
        host: host name or IP address.
        port: port; 0 for any free port.
        allow_anyone: whether every client may use the service without a token, also from other machines.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    allow_anyone: bool = False


def serve(model_request: ModelRequest, address: ListenAddress, limits: Limits, poll: float) -> None:
    """Serve a model until the process is asked to stop.

    Args:
        model_request: the model to serve.
        address: where to listen.
        limits: limits on clients.
        poll: seconds between two checks of the model's alias; 0 never checks.

    Raises:
        ServiceError: the address is in use or invalid, or it is public and there is no token.
        PredictionError, TrackingUnreachableError, InferenceError: the model can't be loaded.
    """
    token = read_token(address)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # while the model loads; else the scratch folder would stay
    with bind_socket(address) as sock, TemporaryDirectory(prefix="histopipe-serve-") as scratch:
        model = load_copy(model_request, Path(scratch))
        _run(model_request, model, limits, (token, allowed_hosts(address, token)), Path(scratch), sock, poll)


def read_token(address: ListenAddress) -> str | None:
    """Read the token that clients must send from the environment; None if there is none and none is needed.

    Raises:
        ServiceError: there is no token although other machines can reach the service, or it is too short.
    """
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    if token and (len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token):
        raise ServiceError(
            f"{TOKEN_VARIABLE} needs {SHORTEST_TOKEN} or more letters and digits: `openssl rand -hex 32` makes some"
        )
    if not token and not address.allow_anyone and not is_loopback(address.host):
        raise ServiceError(
            f"other machines can reach {address.host}: set {TOKEN_VARIABLE}, or say --no-token to answer everyone"
        )
    return token or None


def allowed_hosts(address: ListenAddress, token: str | None) -> frozenset[str] | None:
    """Return the host names by which clients may call the service, besides those of this machine; None for all.

    Without a token everyone on this machine may use the service. Web pages in a browser on this machine could then use
    it as well, unless the host name and the origin of every request are checked.
    """
    return None if token or address.allow_anyone else frozenset({address.host.lower()})


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a host."""
    try:
        addresses = {entry[4][0] for entry in socket.getaddrinfo(host or "0.0.0.0", None)}
    except (OSError, UnicodeError):
        return False
    return all(ipaddress.ip_address(str(address).partition("%")[0]).is_loopback for address in addresses)


def bind_socket(address: ListenAddress) -> socket.socket:
    """Bind a socket to an address, before the model is loaded, so that an address in use is reported at once.

    Raises:
        ServiceError: the address can't be used.
    """
    try:
        family, _, _, _, target = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)  # inherited by its connections
        sock.bind(target)
    except (OSError, UnicodeError, OverflowError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise ServiceError(
            f"can't listen at {address.host}:{address.port} ({reason}): choose another --host or --port"
        ) from None
    return sock


def _run(
    model_request: ModelRequest,
    model: Model,
    limits: Limits,
    access: tuple[str | None, frozenset[str] | None],
    scratch: Path,
    sock: socket.socket,
    poll: float,
) -> None:
    """Serve a loaded model; `access` is the token and the host names that clients may use."""
    from histopipe.service.logs import limit_log_rate
    from histopipe.service.metrics import Metrics
    from histopipe.service.state import Service

    metrics = Metrics()

    def count_reload(loaded: bool) -> None:
        metrics.reloads.labels("loaded" if loaded else "failed").inc()
        service.show_model()

    token, hosts = access
    reloader = ModelReloader(model_request, model, poll, count_reload)
    service = Service(model_request, limits, token, reloader, metrics, scratch, hosts)
    server = _make_server(service, raise_connection_limit())
    limit_log_rate()  # after uvicorn has added its log handlers
    _stop_on_signals(server)
    freeze_loaded_objects()
    sock.listen(BACKLOG)  # clients may connect as soon as they read the line printed below
    _print_address(sock, model)
    server.run([sock])


def raise_connection_limit() -> int:
    """Raise the soft limit on open files if necessary; return the number of connections that fit in it."""
    from histopipe.service.protocol import SPARE

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = MAX_CONNECTIONS + SPARE + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(1, min(MAX_CONNECTIONS, soft - SPARE - OTHER_FILES))


def _make_server(service: Any, max_connections: int) -> Any:
    """Build uvicorn's server of a service; uvicorn is imported only here."""
    import uvicorn

    from histopipe.service.app import make_app
    from histopipe.service.protocol import close_slow_connections, make_protocol

    class TimeLimitedServer(uvicorn.Server):
        """A server that also does the service's regular work and closes the connections of slow clients."""

        _crowded = False

        def handle_exit(self, sig: int, frame: Any) -> None:
            service.stopping = True
            super().handle_exit(sig, frame)

        async def on_tick(self, counter: int) -> bool:
            service.maintain()
            if self._crowded or counter % CHECK_TICKS == 0:
                self._close_slow_connections()
            return await super().on_tick(counter)

        async def shutdown(self, sockets: Any = None) -> None:
            maintenance = asyncio.create_task(self._maintain_until_stopped())
            await super().shutdown(sockets)
            maintenance.cancel()

        async def _maintain_until_stopped(self) -> None:
            while True:
                service.maintain()
                self._close_slow_connections(stopping=True)
                await asyncio.sleep(0.2)

        def _close_slow_connections(self, stopping: bool = False) -> None:
            connections, seconds = self.server_state.connections, service.limits.seconds
            self._crowded = close_slow_connections(connections, max_connections, seconds, stopping)

    config = uvicorn.Config(
        make_app(service),
        http=make_protocol(max_connections),
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=max_connections,
        backlog=BACKLOG,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    return TimeLimitedServer(config)


def _stop_on_signals(server: Any) -> None:
    """Make signals stop the server also before it handles them itself.

    When it ends, uvicorn raises the signal that stopped it once more; this handler then has nothing left to do.
    """

    def stop(*_: object) -> None:
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


def _print_address(sock: socket.socket, model: Model) -> None:
    host, port = sock.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    print(f"{model.name} version {model.version} at http://{shown}:{port} (Ctrl-C stops)", flush=True)
