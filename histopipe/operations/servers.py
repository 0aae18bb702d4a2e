"""Prefect's server as Prefect finds it, asked over its REST API: the library doesn't import Prefect.

A setting is taken from the environment, else from `.env`, `prefect.toml` or `pyproject.toml` in the folder that Prefect
runs in, else from the active profile (https://docs.prefect.io/v3/concepts/settings-and-profiles).

Read here and not by Prefect's `Settings`: those read the folder that the process works in, whichever is asked for, and
don't say which place sets the address; importing them costs 2.0 s of CPU. `test_servers.py` holds both to one answer.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from histopipe.core.addresses import public_url

ANSWER_SECONDS = 10


@dataclass(frozen=True)
class PrefectServer:
    """Where a Prefect server is, and what opens it.

    Attributes:
        address: of its API, such as http://127.0.0.1:4200/api.
        auth_string: `USER:PASSWORD`; empty where none is set.
        key: of Prefect Cloud; empty where none is set.
        origin: what sets the address, for messages.
    """

    address: str
    auth_string: str
    key: str
    origin: str

    @property
    def place(self) -> str:
        """The address without what opens it."""
        return public_url(self.address)

    def ask(self, path: str, question: Mapping[str, Any] | None = None) -> Any:
        """What the server answers: to a GET, or to a POST where there is a question.

        Raises:
            requests.RequestException: nobody answers, or the answer is an error.
            ValueError: the answer is no JSON.
        """
        import requests

        user, _, password = self.auth_string.partition(":")
        answer = requests.request(
            "GET" if question is None else "POST",
            f"{self.address.rstrip('/')}/{path}",
            json=question,
            headers={"Authorization": f"Bearer {self.key}"} if self.key and not user else {},
            auth=(user, password) if user else None,
            timeout=ANSWER_SECONDS,
        )
        answer.raise_for_status()
        return answer.json()


def prefect_server(folder: Path) -> PrefectServer | None:
    """The server that Prefect would talk to from a folder; None where flows start one of their own."""
    places = _settings(folder)
    address, origin = _first(places, "PREFECT_API_URL")
    if not address:
        return None
    return PrefectServer(
        address, _first(places, "PREFECT_API_AUTH_STRING")[0], _first(places, "PREFECT_API_KEY")[0], origin
    )


def _first(places: list[tuple[str, Mapping[str, Any]]], name: str) -> tuple[str, str]:
    for origin, settings in places:
        if settings.get(name):
            return str(settings[name]), origin
    return "", ""


def _settings(folder: Path) -> list[tuple[str, Mapping[str, Any]]]:
    """Settings by place, the strongest place first."""
    dotenv = _dotenv(folder / ".env")
    project = _toml(folder / "prefect.toml")
    pyproject = _toml(folder / "pyproject.toml").get("tool", {}).get("prefect", {})
    name, profile = _profile(dotenv, project, pyproject)
    return [
        ("the environment", os.environ),
        (".env", dotenv),
        ("prefect.toml", _api(project)),
        ("pyproject.toml", _api(pyproject)),
        (f"Prefect's profile {name}", profile),
    ]


def _api(settings: Mapping[str, Any]) -> dict[str, Any]:
    section = settings.get("api", {})
    return {f"PREFECT_API_{name.upper()}": value for name, value in section.items()}


def _profile(
    dotenv: Mapping[str, Any], project: Mapping[str, Any], pyproject: Mapping[str, Any]
) -> tuple[str, Mapping[str, Any]]:
    """The active profile's name and settings; `PREFECT_PROFILE` counts in the environment alone, as for Prefect."""
    path = (
        os.environ.get("PREFECT_PROFILES_PATH")
        or dotenv.get("PREFECT_PROFILES_PATH")
        or project.get("profiles_path")
        or pyproject.get("profiles_path")
        or _profiles_of_user()
    )
    content = _toml(Path(path))
    name = os.environ.get("PREFECT_PROFILE") or content.get("active") or ""
    return name, content.get("profiles", {}).get(name, {})


def _profiles_of_user() -> Path:
    if home := os.environ.get("PREFECT_HOME"):
        return Path(home) / "profiles.toml"
    own = Path.home() / ".prefect" / "profiles.toml"
    installed = find_spec("prefect")  # looks, doesn't import
    if own.exists() or installed is None or installed.origin is None:
        return own
    return Path(installed.origin).parent / "settings" / "profiles.toml"


def _toml(path: Path) -> dict[str, Any]:
    """A file's content; nothing of one that is absent or that Prefect couldn't read either."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _dotenv(path: Path) -> Mapping[str, Any]:
    from dotenv import dotenv_values  # as Prefect reads it, and comes with it

    return dotenv_values(path) if path.is_file() else {}
