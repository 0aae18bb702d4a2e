"""Clients that send, ask for or leave behind too much: a real server stays as it is, and answers the others."""

from __future__ import annotations

import asyncio
import re
import resource
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import requests

from benchmarks import floods
from tests.builders.paths import ROOT
from tests.builders.service import (
    PATIENCE,
    Server,
    point_of,
    register,
    serving,
    slide_zip,
    telling_network,
    until_ended,
)

MEMORY = 256  # MiB of bodies that the server may hold
SLACK = 350  # MiB for what is decoded, copied and kept by the C library
SECONDS = 4.0  # that clients may take
LIMITS = ("--max-memory", str(MEMORY), "--max-seconds", str(SECONDS), "--poll", "0")
SOON = 60.0  # seconds; a busy machine is slow
DOCUMENTED = 30.0  # seconds within which a server that is asked to stop has ended
PIPELINED = b"GET /page.js HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, tracking_database: Path) -> Path:
    """A checkout whose champion takes images of any size."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copy(ROOT / "params.yaml", folder)
    shutil.copy(tracking_database, folder / "mlflow.db")
    register(folder, telling_network(), point=point_of("malaria"))
    return folder


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[Server]:
    with serving(root, "--dataset", "malaria", *LIMITS) as started:
        asyncio.run(floods.until_answered(started.port))
        yield started


def recovered(server: Server) -> float:
    """Seconds until other clients are answered, many times in a row."""
    return asyncio.run(floods.until_answered(server.port, 2 * SOON))


def gauge(server: Server, name: str) -> float:
    text = requests.get(server.address + "/metrics", timeout=PATIENCE).text
    number = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    assert number, text
    return float(number[1])


def until(seconds: float, true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.2)


def connections_of(server: Server) -> int:
    found = psutil.Process(server.process.pid).net_connections("tcp")
    return sum(connection.status == psutil.CONN_ESTABLISHED for connection in found)


def test_after_forms_of_large_pictures_others_are_graded_at_once(server: Server) -> None:
    asyncio.run(floods.send_pictures(server.port, 5))
    assert recovered(server) < SOON
    until(SOON, lambda: gauge(server, "histopipe_held_bytes") == 0)


def test_others_are_graded_while_large_pictures_wait(server: Server) -> None:
    async def meanwhile() -> list[int]:
        flood = asyncio.create_task(floods.send_pictures(server.port, 10, 20))
        await asyncio.sleep(1)
        statuses = [await floods.ask(server.port, floods.form(floods.patch()), SOON) for _ in range(5)]
        flood.cancel()
        return statuses

    assert asyncio.run(meanwhile()) == [200] * 5


def test_bodies_take_no_more_memory_than_allowed(server: Server) -> None:
    process = psutil.Process(server.process.pid)
    before, held = process.memory_info().rss, []
    for _ in range(4):
        asyncio.run(floods.send_bodies(server.port, 5))
        held.append((process.memory_info().rss - before) / 2**20)
    assert max(held) < MEMORY + SLACK, held


def test_work_ends_with_the_client(server: Server) -> None:
    message = floods.form(*[floods.small_file()] * floods.PICTURES)
    for _ in range(6):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(message)
            time.sleep(0.1)
    until(SOON / 3, lambda: gauge(server, "histopipe_held_bytes") == 0)
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize("pipelined", [floods.FEW, floods.PIPELINED])
def test_connections_that_are_never_read_keep_nobody_out(server: Server, pipelined: int) -> None:
    wanted = floods.CONNECTIONS + 200
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        if hard < wanted:
            pytest.skip("the system allows too few open files")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    opened = [floods.connected(server.port, PIPELINED * pipelined) for _ in range(floods.CONNECTIONS)]
    try:
        assert recovered(server) < SOON
        until(SOON, lambda: connections_of(server) < 100)
    finally:
        for connection in filter(None, opened):
            connection.close()


def test_a_large_answer_that_is_not_read_is_given_up(server: Server) -> None:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        for _ in range(60):  # a few at a time, until the system keeps no more of what isn't read
            try:
                connection.sendall(PIPELINED * floods.FEW)
            except OSError:
                break
            time.sleep(0.05)
        until(SOON, lambda: connections_of(server) == 0)


def test_clients_that_go_away_leave_a_few_lines_in_the_log(server: Server) -> None:
    size = server.log.stat().st_size
    asyncio.run(floods.reset(server.port, 20, 200))
    for message in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nHo"):
        for _ in range(50):
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                connection.sendall(message)
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(floods.request("multipart/form-data; boundary=part", b"--part?" + bytes(50)))
            connection.recv(1000)
    assert recovered(server) < SOON
    added = server.log.read_bytes()[size:]
    assert b"Traceback" not in added and len(added) < 5000, added.decode()


def test_results_count_as_memory_until_they_are_read(server: Server) -> None:
    archive = {"file": ("a.zip", slide_zip())}
    job = requests.post(f"{server.address}/v1/slides", files=archive, timeout=PATIENCE).json()
    address = f"{server.address}/v1/slides/{job['id']}"
    state = until_ended(lambda url: requests.get(url, timeout=PATIENCE).json(), address)
    assert state["state"] == "done", state
    paths = [f"{address}/result"] * 60
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda url=url: statuses.append(requests.get(url, timeout=PATIENCE).status_code))
        for url in paths
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(statuses) <= {200, 429} and 200 in statuses
    until(SOON, lambda: gauge(server, "histopipe_held_bytes") == 0)


@pytest.mark.parametrize("signals", [(signal.SIGTERM,), (signal.SIGINT, signal.SIGINT)], ids=["TERM", "INT twice"])
def test_told_to_stop_amid_a_flood_it_ends_in_time(root: Path, signals: tuple[int, ...]) -> None:
    with serving(root, "--dataset", "malaria", "--poll", "0") as server:
        asyncio.run(floods.until_answered(server.port))
        upload = socket.create_connection(("127.0.0.1", server.port))
        upload.sendall(
            b"POST /v1/slides?name=a.zip HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/zip\r\n"
            b"Content-Length: 1000000\r\n\r\n" + bytes(1000)
        )
        unread = floods.connected(server.port, PIPELINED * floods.FEW)
        flood = threading.Thread(target=lambda: asyncio.run(floods.send_pictures(server.port, 60, 40)))
        flood.start()
        time.sleep(2)
        began = time.monotonic()
        for number in signals:
            server.process.send_signal(number)
            time.sleep(0.5)
        assert server.process.wait(PATIENCE) == 0
        assert time.monotonic() - began < DOCUMENTED
        assert list(server.scratch.glob("histopipe-serve-*")) == []
        flood.join()
        for connection in (upload, unread):
            if connection:
                connection.close()
