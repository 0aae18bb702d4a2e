"""Flood `histopipe serve` for two minutes, and measure how soon it answers other clients afterwards.

The floods take turns: forms of 64 small files that hold large pictures, bodies of 29 MiB, connections that send
requests one behind the other and never read, connections that are reset in the middle of an answer. Meanwhile and
afterwards other clients send a patch now and then. The server is asked to stop while such a flood is still there.

    python -m benchmarks.floods                        # two minutes of floods, three in all
    python -m benchmarks.floods --seconds 10           # shorter
"""

from __future__ import annotations

import asyncio
import io
import json
import re
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import click
import psutil

from benchmarks.measuring import report

AIM = 10.0  # seconds after the floods within which other clients are answered
GIVEN_UP = 600.0  # seconds after which the measurement is given up
SIDE = 2000  # pixels: as many as an image may have
PICTURES = 64  # of a form
FORMS, BODIES, CONNECTIONS, RESETS = 60, 15, 2060, 1000  # of a round
BODY = 29 * 2**20  # bytes
PIPELINED = 200  # requests that a connection sends before it would read; every other one a few
FEW = 4
ROUND_SECONDS = 15.0  # that clients of a flood wait for answers, and hold connections
ALONE = 20  # answers in a row that show that all is well
PAGE = b"GET /page.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
LINES = re.compile(rb"HTTP/1\.1 (\d\d\d)")


@cache
def small_file() -> bytes:
    """Return a TIFF of 18 kB that holds 4 million pixels."""
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), (200, 120, 160)).save(stream, "TIFF", compression="tiff_deflate")
    return stream.getvalue()


@cache
def patch() -> bytes:
    """Return a PNG of a patch's size."""
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (50, 50), (200, 120, 160)).save(stream, "PNG")
    return stream.getvalue()


def form(*contents: bytes) -> bytes:
    """Return a request with these images."""
    head = b'--part\r\nContent-Disposition: form-data; name="images"; filename="p"\r\n\r\n'
    body = b"".join(b"%s%s\r\n" % (head, content) for content in contents) + b"--part--\r\n"
    return request("multipart/form-data; boundary=part", body)


def request(kind: str, body: bytes, size: int | None = None) -> bytes:
    """Return a request; `size` is what its headers say, the body's own length by default."""
    length = len(body) if size is None else size
    head = f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
    return head.encode() + body


async def ask(port: int, message: bytes, seconds: float) -> int:
    """Send a request on a connection of its own; returns the answer's status, 0 for none within `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(message)
                with suppress(ConnectionError):
                    await writer.drain()
                answered = LINES.match(await reader.read(100))
                return int(answered[1]) if answered else 0
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return 0


async def many(port: int, message: bytes, clients: int, seconds: float) -> Counter[int]:
    """Send one request from each of so many clients at once; returns how often each status was answered."""
    return Counter(await asyncio.gather(*(ask(port, message, seconds) for _ in range(clients))))


async def send_pictures(port: int, seconds: float = ROUND_SECONDS, clients: int = FORMS) -> None:
    """Send forms of small files with large pictures, from many clients at once."""
    await many(port, form(*[small_file()] * PICTURES), clients, seconds)


async def send_bodies(port: int, seconds: float = ROUND_SECONDS, clients: int = BODIES) -> None:
    """Send large bodies of many pictures, from many clients at once."""
    padded = small_file() + bytes(BODY // PICTURES - len(small_file()) - 200)
    await many(port, form(*[padded] * PICTURES), clients, seconds)


async def never_read(port: int, seconds: float = ROUND_SECONDS, connections: int = CONNECTIONS) -> None:
    """Open connections that send many requests and read nothing, and hold them for a while."""
    opened = []
    try:
        for number in range(connections):
            opened.append(connected(port, PAGE * (FEW if number % 2 else PIPELINED)))
            await asyncio.sleep(0)
        await asyncio.sleep(seconds)
    finally:
        for sock in filter(None, opened):
            sock.close()


async def reset(port: int, seconds: float = ROUND_SECONDS, connections: int = RESETS) -> None:
    """Open connections one after the other that are reset in the middle of an answer."""
    end = time.monotonic() + seconds
    for number in range(connections):
        if time.monotonic() > end:
            break
        sock = connected(port, PAGE * (FEW if number % 2 else PIPELINED))
        await asyncio.sleep(0.002)
        if sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()


def connected(port: int, message: bytes) -> socket.socket | None:
    """Return a connection on which a message was sent; None where it can't be had."""
    sock = socket.socket()
    sock.setblocking(False)
    with suppress(OSError):
        sock.settimeout(1)
        sock.connect(("127.0.0.1", port))
        sock.setblocking(False)
        sock.send(message)
        return sock
    sock.close()
    return None


Flood = Callable[[int], Awaitable[None]]
FLOODS: dict[str, Flood] = {"pictures": send_pictures, "bodies": send_bodies, "unread": never_read, "resets": reset}


async def until_answered(port: int, seconds: float = GIVEN_UP) -> float:
    """Return the seconds until other clients are answered with 200, many times in a row."""
    began = last = time.monotonic()
    answered = 0
    while answered < ALONE and time.monotonic() - began < seconds:
        answered = answered + 1 if await ask(port, form(patch()), 5) == 200 else 0
        last = last if answered > 1 else time.monotonic()
        await asyncio.sleep(0 if answered else 0.1)
    return last - began if answered == ALONE else float("inf")


async def watch(port: int, statuses: Counter[int]) -> None:
    """Send a patch ten times a second, and count what is answered."""
    while True:
        statuses[await ask(port, form(patch()), 5)] += 1
        await asyncio.sleep(0.1)


@dataclass(frozen=True)
class Watched:
    """A running service.

    Attributes:
        port: where it listens.
        process: its own.
        log: what it wrote to stderr.
    """

    port: int
    process: subprocess.Popen[str]
    log: Path

    @property
    def memory(self) -> float:
        """MiB that it holds; without the process of jobs."""
        return float(psutil.Process(self.process.pid).memory_info().rss / 2**20)

    def stop(self, seconds: float = GIVEN_UP) -> float:
        """Ask it to end; returns how many seconds that took."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return float("inf")
        return time.monotonic() - began


@contextmanager
def watched(root: Path, model: str) -> Iterator[Watched]:
    """Start a server on a port of its own."""
    import sys

    from benchmarks.serving import surroundings

    log = root / "floods.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "histopipe", "serve", "--model", model, "--port", "0"],
            cwd=root,
            env=surroundings(root),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        assert process.stdout
        address = re.search(r"http://\S+:(\d+)", process.stdout.readline())
        if not address:
            raise SystemExit(f"the server doesn't start: {log.read_text(encoding='utf-8')[-2000:]}")
        yield Watched(int(address[1]), process, log)
    finally:
        process.kill()
        process.wait()


async def flood(server: Watched, seconds: float) -> dict[str, Any]:
    """Send floods in turn for so many seconds; returns what was seen of the server meanwhile and afterwards."""
    statuses: Counter[int] = Counter()
    other = asyncio.create_task(watch(server.port, statuses))
    end, memory, rounds, size = time.monotonic() + seconds, [server.memory], 0, server.log.stat().st_size
    while time.monotonic() < end:
        for send in FLOODS.values():
            await send(server.port)
            memory.append(server.memory)
            rounds += 1
            if time.monotonic() > end:
                break
    other.cancel()
    return {
        "recovered_seconds": round(await until_answered(server.port), 2),
        "floods": rounds,
        "statuses_meanwhile": {str(status): count for status, count in sorted(statuses.items())},
        "first_mib": round(memory[0]),
        "most_mib": round(max(memory)),
        "memory_mib": [round(value) for value in memory],
        "log_bytes": server.log.stat().st_size - size,
    }


async def flood_alone(server: Watched, name: str, rounds: int) -> dict[str, Any]:
    """Send one of the floods so many times; returns what was seen of the server afterwards."""
    memory, size = [server.memory], server.log.stat().st_size
    for _ in range(rounds):
        await FLOODS[name](server.port)
        memory.append(server.memory)
    recovered = await until_answered(server.port)
    return {
        "recovered_seconds": round(recovered, 2),
        "memory_mib": [round(value) for value in memory],
        "log_bytes": server.log.stat().st_size - size,
    }


async def stop_amid(server: Watched) -> float:
    """Ask the server to end while clients wait for a flood's answers; returns how many seconds that took."""
    sending = asyncio.create_task(send_pictures(server.port, GIVEN_UP))
    await asyncio.sleep(2)
    took = await asyncio.to_thread(server.stop)
    sending.cancel()
    return round(took, 2)


@click.command()
@click.option("--seconds", default=120.0, show_default=True, help="Of floods.")
@click.option("--only", type=click.Choice(list(FLOODS)), help="This flood alone.")
@click.option("--rounds", default=1, show_default=True, help="Of --only.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path(tempfile.gettempdir()) / "histopipe-benchmarks")
def main(seconds: float, only: str | None, rounds: int, folder: Path) -> None:
    """Flood a server; the last line is JSON and holds `ratio`: the aim over the seconds until others are answered."""
    from benchmarks.serving import POINT, make_checkout

    folder.mkdir(parents=True, exist_ok=True)
    root, model = make_checkout(folder, POINT | {"resized": True})  # else large pictures are refused by their headers
    with watched(root, model) as server:
        asyncio.run(until_answered(server.port))
        seen = asyncio.run(flood_alone(server, only, rounds) if only else flood(server, seconds))
        print(json.dumps(seen), flush=True)
        stopped = asyncio.run(stop_amid(server))
    ratio = round(AIM / max(0.01, seen["recovered_seconds"]), 2)
    report("floods", ratio, aim_seconds=AIM, seconds=seconds, stopped_seconds=stopped, **seen)


if __name__ == "__main__":
    main()
