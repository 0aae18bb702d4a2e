"""Which Prefect server is asked: the one that Prefect itself would talk to."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from histopipe.operations.servers import prefect_server

PROFILES = """
active = "group"
[profiles.group]
PREFECT_API_URL = "http://group.example.org/api"
PREFECT_API_AUTH_STRING = "me:planted"
[profiles.other]
PREFECT_API_URL = "http://other.example.org/api"
[profiles.alone]
PREFECT_SERVER_EPHEMERAL_ENABLED = "true"
"""
ASK = (
    "import json; from prefect.settings import get_current_settings as s; a = s().api; "
    "print(json.dumps([a.url, a.auth_string and a.auth_string.get_secret_value()]))"
)
PLACES = {
    "profile": ({}, {}),
    "chosen profile": ({"PREFECT_PROFILE": "other"}, {}),
    "profile without a server": ({"PREFECT_PROFILE": "alone"}, {}),
    "unknown profile": ({"PREFECT_PROFILE": "nobody's"}, {}),
    "environment": ({"PREFECT_API_URL": "http://here.example.org/api"}, {}),
    "dotenv": ({}, {".env": "PREFECT_API_URL=http://dotenv.example.org/api\n"}),
    "prefect.toml": ({}, {"prefect.toml": '[api]\nurl = "http://toml.example.org/api"\n'}),
    "pyproject.toml": ({}, {"pyproject.toml": '[tool.prefect.api]\nurl = "http://project.example.org/api"\n'}),
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with Prefect's profiles beside it."""
    (tmp_path / "prefect").mkdir()
    (tmp_path / "prefect" / "profiles.toml").write_text(PROFILES)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    for name in ("PREFECT_PROFILE", "PREFECT_PROFILES_PATH", "PREFECT_API_AUTH_STRING", "PREFECT_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "here"


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_the_server_is_found_where_prefect_finds_it(place: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variables, files = PLACES[place]
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for name, content in files.items():
        (home / name).write_text(content)
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True)
    server = prefect_server(home)
    found = (server.address, server.auth_string or None) if server else (None, None)
    assert list(found) == json.loads(done.stdout.splitlines()[-1])


def test_it_is_the_same_server_wherever_one_stands(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / ".env").write_text("PREFECT_API_URL=http://dotenv.example.org/api\n")
    (home / "docs").mkdir()
    monkeypatch.chdir(home / "docs")
    server = prefect_server(home)
    assert server and server.origin == ".env"


def test_what_opens_the_server_is_not_shown(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://me:planted@here.example.org/api")
    server = prefect_server(home)
    assert server and server.public_address == "http://here.example.org/api"
