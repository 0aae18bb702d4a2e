"""Many, slow and endless requests: all are answered or let go, and memory stays what it was."""

from __future__ import annotations

import asyncio
import socket
import threading
import time

import psutil
import pytest
import requests

from tests.builders.service import BEARER, TOKEN, Server, picture, sample_patches


def dribble(server: Server, start: bytes) -> bytes:
    """Send a beginning, then a byte now and then; returns what the server says before it hangs up."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(start)
        deadline = time.monotonic() + 60
        connection.settimeout(0.5)
        said = b""
        while time.monotonic() < deadline:
            try:
                connection.sendall(b"x")
                received = connection.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                return said
            if not received:
                return said
            said += received
    pytest.fail("the server waits for ever")


def test_slow_clients_are_let_go(server: Server) -> None:
    opening = f"POST /v1/predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: image/png\r\n"
    slow = {"body": opening + "Content-Length: 100000\r\n\r\n", "headers": "GET / HTTP/1.1\r\nX-Slow: ", "nothing": ""}
    slow["upload"] = slow["body"].replace("/v1/predict", "/v1/slides?name=a.zip")  # a piece now and then is too little
    with_answers: dict[str, bytes] = {}

    def let(name: str) -> None:
        with_answers[name] = dribble(server, slow[name].encode())

    threads = [threading.Thread(target=let, args=(name,)) for name in slow]
    for thread in threads:
        thread.start()
    began = time.monotonic()
    assert requests.get(server.address + "/healthz", timeout=60).status_code == 200  # the others don't wait
    assert time.monotonic() - began < 4
    for thread in threads:
        thread.join(90)
    for name in ("body", "upload"):
        assert b" 408 " in with_answers[name] and b"too slowly" in with_answers[name]
    assert set(with_answers) == set(slow)


ENDLESS = {
    "one long header": ["GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + "x" * 60_000, "x" * 6_000],
    "a long address": ["GET /" + "x" * 60_000, "x" * 6_000],
    "many headers": ["GET / HTTP/1.1\r\n" + "X-Many: x\r\n" * 5_400, "X-Many: x\r\n" * 800 + "\r\n"],
    "trailers": [
        "POST /nowhere HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Long: " + "x" * 60_000,
        "x" * 6_000,
        "x" * 6_000,
    ],
}


@pytest.mark.parametrize("before", [b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"], ids=["first", "second"])
@pytest.mark.parametrize("kind", ENDLESS)
def test_headers_without_end_are_refused(server: Server, kind: str, before: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        if before:
            connection.sendall(before)
            first = b""
            while not first.endswith(b"}"):  # headers and content may come apart
                first += connection.recv(65536)
            assert b" 200 " in first
        said = b""
        try:
            for piece in ENDLESS[kind]:
                connection.sendall(piece.encode())
                time.sleep(0.3)
            while received := connection.recv(65536):
                said += received
        except OSError:  # hung up while more was sent
            pass
    assert said.startswith(b"HTTP/1.1 431 ") or kind == "trailers", said[:200]  # those come after the answer


async def rush(port: int, clients: int, each: int) -> list[tuple[int, bool]]:
    """Status of every request of many clients at once, and whether it says when to come back."""
    body = picture(sample_patches()[0])
    head = f"POST /v1/predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: image/png\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    found = []

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(each):
            writer.write(request)
            headers = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = next(line for line in headers.split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.partition(b":")[2]))
            found.append((int(headers[9:12]), b"retry-after:" in headers))
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return found


def test_too_many_clients_at_once_are_told_to_come_back(server: Server) -> None:
    found = asyncio.run(rush(server.port, 200, 4))
    assert len(found) == 800
    assert {status for status, _ in found} == {200, 429}
    assert all(retry == (status == 429) for status, retry in found)


@pytest.mark.parametrize("count", [400, pytest.param(20_000, marks=pytest.mark.long)])
def test_memory_stays_what_it_was_over_many_requests(server: Server, count: int) -> None:
    process = psutil.Process(server.process.pid)
    held = []
    for _ in range(8):
        asyncio.run(rush(server.port, 8, count // 64))
        held.append(process.memory_info().rss / 2**20)
    assert max(held[4:]) < 1.05 * max(held[:4]), held


def test_metrics_count_what_happened(server: Server) -> None:
    text = requests.get(server.address + "/metrics", headers=BEARER, timeout=60).text
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(lines['histopipe_requests_total{method="POST",route="/v1/predict",status="200"}']) > 0
    assert float(lines['histopipe_model_info{name="histopipe-idc",version="1"}']) == 1
    assert float(lines["histopipe_batch_patches_count"]) > 0
