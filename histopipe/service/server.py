"""The server itself: where it listens, how it starts and how it ends."""

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

from histopipe.core.errors import ServingError
from histopipe.service.limits import Limits
from histopipe.service.models import Asked, Keeper, Model, load_kept, spare_from_collection

TOKEN = "HISTOPIPE_TOKEN"
SHORTEST_TOKEN = 16  # letters: a shorter one can be tried out
STOP_SECONDS = 20  # for what is under way, once the server is asked to stop; ending jobs takes up to 8 more
CONNECTIONS = 2048  # where the system lets the process open as many files
BACKLOG = CONNECTIONS  # a burst beyond it is connected by the next try of TCP, a second later
UNREAD = 512 * 2**10  # bytes of answers that the system keeps for a client which doesn't read; else it keeps megabytes
FILES = 512  # that the process opens beside its connections
TICKS = 5  # of uvicorn, a tenth of a second each, between two looks at slow clients


@dataclass(frozen=True)
class Place:
    """Where to listen.

    Attributes:
        host: name or address.
        port: 0 for any that is free.
        open: whether anybody may ask, from other machines too, without a token.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    open: bool = False


def serve(asked: Asked, place: Place, limits: Limits, poll: float) -> None:
    """Serve until the process is told to stop.

    Args:
        asked: which model.
        place: where to listen.
        limits: of clients.
        poll: seconds between two looks at where the alias stands; 0 never looks.

    Raises:
        ServingError: it may not or can't listen there.
        ScoringError, TrackingAwayError, InferenceError: the model can't be had.
    """
    token = token_for(place)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # while it loads; else the folder would stay
    with listening(place) as sock, TemporaryDirectory(prefix="histopipe-serve-") as scratch:
        model = load_kept(asked, Path(scratch))
        _run(asked, model, limits, (token, called(place, token)), Path(scratch), sock, poll)


def token_for(place: Place) -> str | None:
    """The token that clients must bring, from the environment.

    Raises:
        ServingError: there is none, other machines could ask, and nobody said that they may; or it is too short.
    """
    token = os.environ.get(TOKEN, "").strip()
    if token and (len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token):
        raise ServingError(
            f"{TOKEN} wants {SHORTEST_TOKEN} or more letters and digits: `openssl rand -hex 32` gives such"
        )
    if not token and not place.open and not is_loopback(place.host):
        raise ServingError(
            f"{place.host} can be reached from other machines: set {TOKEN}, or say --no-token if anybody may ask"
        )
    return token or None


def called(place: Place, token: str | None) -> frozenset[str] | None:
    """Names by which clients may call the server, beside those of this machine alone; None where any will do.

    Without a token whoever is on this machine may ask, and so may any web page that a browser on it shows, unless the
    server looks at how it is called and by whom.
    """
    return None if token or place.open else frozenset({place.host.lower()})


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host or "0.0.0.0", None)}
    except (OSError, UnicodeError):
        return False
    return all(ipaddress.ip_address(str(address).partition("%")[0]).is_loopback for address in found)


def listening(place: Place) -> socket.socket:
    """A socket bound to the place, before the model is loaded: an address in use shows at once.

    Raises:
        ServingError: it can't be had.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNREAD)  # of its connections too
        sock.bind(address)
    except (OSError, UnicodeError, OverflowError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise ServingError(
            f"can't listen at {place.host}:{place.port} ({reason}): choose another --host or --port"
        ) from None
    return sock


def _run(
    asked: Asked,
    model: Model,
    limits: Limits,
    admits: tuple[str | None, frozenset[str] | None],
    scratch: Path,
    sock: socket.socket,
    poll: float,
) -> None:
    import uvicorn

    from histopipe.service.app import make_app
    from histopipe.service.logs import spare_the_log
    from histopipe.service.metrics import Metrics
    from histopipe.service.protocol import patient_for
    from histopipe.service.state import Service

    metrics = Metrics()

    def changed(loaded: bool) -> None:
        metrics.reloads.labels("loaded" if loaded else "failed").inc()
        service.show_model()

    token, hosts = admits
    service = Service(asked, limits, token, Keeper(asked, model, poll, changed), metrics, scratch, hosts)
    most = most_connections()
    config = uvicorn.Config(
        make_app(service),
        http=patient_for(most),
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=most,
        backlog=BACKLOG,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    spare_the_log()
    server = _Server(config, service)
    _ends_quietly(server)
    spare_from_collection()
    sock.listen(BACKLOG)  # whoever reads the line below may call at once
    _say(sock, model)
    server.run([sock])


def most_connections() -> int:
    """Return how many connections there may be, after the system's soft limit of open files was raised as needed."""
    from histopipe.service.protocol import SPARE

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + SPARE + FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return CONNECTIONS if soft == resource.RLIM_INFINITY else max(1, min(CONNECTIONS, soft - SPARE - FILES))


def _Server(config: Any, service: Any) -> Any:  # noqa: N802  # uvicorn's class is imported only here
    import uvicorn

    from histopipe.service.protocol import let_slow_ones_go

    class Stopping(uvicorn.Server):
        _crowded = False

        def handle_exit(self, sig: int, frame: Any) -> None:
            service.stopping = True
            super().handle_exit(sig, frame)

        async def on_tick(self, counter: int) -> bool:
            service.look_after()
            if self._crowded or counter % TICKS == 0:
                self._let_slow_ones_go()
            return await super().on_tick(counter)

        async def shutdown(self, sockets: Any = None) -> None:
            hurrying = asyncio.create_task(self._hurry())
            await super().shutdown(sockets)
            hurrying.cancel()

        async def _hurry(self) -> None:
            while True:
                service.look_after()
                self._let_slow_ones_go(hurry=True)
                await asyncio.sleep(0.2)

        def _let_slow_ones_go(self, hurry: bool = False) -> None:
            connections = self.server_state.connections
            self._crowded = let_slow_ones_go(connections, config.limit_concurrency, service.limits.seconds, hurry)

    return Stopping(config)


def _ends_quietly(server: Any) -> None:
    """End the server by signals that come before it listens to them itself.

    It also raises the signal that ended it once more, for whoever comes after it: nobody does.
    """

    def end(*_: object) -> None:
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)


def _say(sock: socket.socket, model: Model) -> None:
    host, port = sock.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    print(f"{model.name} version {model.version} at http://{shown}:{port} (Ctrl-C stops)", flush=True)
