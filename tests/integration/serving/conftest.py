"""A champion and a server of it, made once for all tests of this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
    sample_patches,
    serving,
)


@pytest.fixture(scope="package")
def root(tmp_path_factory: pytest.TempPathFactory, tracking_database: Path) -> Path:
    """A checkout with a champion."""
    return make_checkout(tmp_path_factory.mktemp("checkout"), tracking_database)


@pytest.fixture(scope="package")
def server(root: Path) -> Iterator[Server]:
    """One server for all tests that leave its champion alone."""
    with serving(root, *LIMITS, token=TOKEN) as started:
        yield started


@pytest.fixture
def post(server: Server) -> Callable[..., requests.Response]:
    def send(path: str = "/v1/predict", **options: Any) -> requests.Response:
        options["headers"] = BEARER | options.get("headers", {})
        return requests.post(server.address + path, timeout=PATIENCE, **options)

    return send


@pytest.fixture
def ask(server: Server) -> Callable[[str], Any]:
    def content(path: str) -> Any:
        answer = requests.get(server.address + path, headers=BEARER, timeout=PATIENCE)
        assert answer.status_code == 200, answer.text
        return answer.json()

    return content


@pytest.fixture(autouse=True)
def _goes_on(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test the server still grades, and holds no file."""
    yield
    if "server" not in request.fixturenames:
        return
    server = request.getfixturevalue("server")
    if server.process.poll() is None:
        good = requests.post(
            server.address + "/v1/predict", data=picture(sample_patches()[0]), headers=IMAGE, timeout=60
        )
        assert good.status_code == 200, good.text
        assert server.left_on_disk == []
