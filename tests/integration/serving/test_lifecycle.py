"""What happens to a server while it runs: another champion, a broken one, and its end."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.builders.service import (
    BEARER,
    IMAGE,
    LIMITS,
    PATIENCE,
    TOKEN,
    Server,
    make_checkout,
    picture,
    register,
    sample_patches,
    serving,
    slide_zip,
    telling_network,
    wait_until,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, tracking_database: Path) -> Path:
    """A checkout of these tests alone, which change its champion."""
    return make_checkout(tmp_path_factory.mktemp("checkout"), tracking_database)


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[Server]:
    """A server of these tests alone, which end it."""
    with serving(root, *LIMITS, token=TOKEN) as started:
        yield started


def test_a_new_champion_takes_over_and_a_broken_one_does_not(root: Path, server: Server, ask: Any) -> None:
    statuses, stop = [], threading.Event()

    def keep_asking() -> None:
        body = picture(sample_patches()[0])
        while not stop.is_set():
            answer = requests.post(server.address + "/v1/predict", data=body, headers=IMAGE, timeout=PATIENCE)
            statuses.append((answer.status_code, answer.json().get("model", {}).get("version")))

    asking = threading.Thread(target=keep_asking)
    asking.start()
    try:
        assert register(root, telling_network(seed=2), threshold=0.3) == "2"
        wait_until(lambda: ask("/readyz")["model"]["version"] == "2")
        assert ask("/v1/model")["threshold"] == 0.3
        broken_version(root)
        wait_until(lambda: "version 3 can't be loaded" in (ask("/readyz")["problem"] or ""))
        assert ask("/readyz")["status"] == "ok"
    finally:
        stop.set()
        asking.join()
    assert {status for status, _ in statuses} == {200}
    assert [version for _, version in statuses] == sorted(version for _, version in statuses)
    assert statuses[-1][1] == "2"
    text = requests.get(server.address + "/metrics", headers=BEARER, timeout=60).text
    assert 'histopipe_reloads_total{outcome="loaded"} 1.0' in text
    assert 'histopipe_reloads_total{outcome="failed"} 1.0' in text


def broken_version(root: Path) -> None:
    """Champion 3, whose network is cut short."""
    assert register(root, telling_network(seed=3)) == "3"
    network = max(root.rglob("*.keras"), key=lambda path: path.stat().st_mtime)
    network.write_bytes(network.read_bytes()[:1000])


@pytest.mark.usefixtures("server")
def test_told_to_stop_it_finishes_what_it_began(server: Server) -> None:
    """The last test of this server."""
    requests.post(server.address + "/v1/slides", files={"file": ("a.zip", slide_zip())}, headers=BEARER, timeout=60)
    body = picture(sample_patches()[0])
    head = f"POST /v1/predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: image/png\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:1000])
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(1)
        with pytest.raises(requests.ConnectionError):
            requests.get(server.address + "/healthz", timeout=10)
        connection.sendall(body[1000:])
        assert b" 200 " in connection.recv(65536)
    assert server.process.wait(PATIENCE) == 0
    assert list(server.scratch.glob("histopipe-serve-*")) == []
    assert "Traceback" not in server.log.read_text()
