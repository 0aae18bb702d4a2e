"""Prefect's server, found as Prefect finds it and queried over its REST API: the library doesn't import Prefect.

A setting is taken from the environment, else from `.env`, `prefect.toml` or `pyproject.toml` in the folder that Prefect
runs in, else from the active profile (https://docs.prefect.io/v3/concepts/settings-and-profiles).

Prefect's own `Settings` aren't used: they always read the current folder, they don't tell where the address is set, and
importing them takes 2.0 s of CPU. `tests/unit/operations/test_servers.py` checks that both give the same settings.
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
    """A Prefect server with its address and credentials.

    Attributes:
        address: the address of its API, such as http://127.0.0.1:4200/api.
        auth_string: `USER:PASSWORD`; empty if not set.
        key: the key of Prefect Cloud; empty if not set.
        origin: where the address is set, for messages.
    """

    address: str
    auth_string: str
    key: str
    origin: str

    @property
    def public_address(self) -> str:
        """The address without credentials."""
        return public_url(self.address)

    def ask(self, path: str, question: Mapping[str, Any] | None = None) -> Any:
        """Send a GET request, or a POST request if there is a question, and return the server's answer.

        Args:
            path: the path of the endpoint below the API's address.
            question: the body of a POST request.

        Raises:
            requests.RequestException: there is no answer, or an error.
            ValueError: the answer isn't JSON.
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
    """Find the server that Prefect would use in a folder; None if flows start their own server."""
    sources = _settings(folder)
    address, origin = _first(sources, "PREFECT_API_URL")
    if not address:
        return None
    return PrefectServer(
        address, _first(sources, "PREFECT_API_AUTH_STRING")[0], _first(sources, "PREFECT_API_KEY")[0], origin
    )


def _first(sources: list[tuple[str, Mapping[str, Any]]], name: str) -> tuple[str, str]:
    for origin, settings in sources:
        if settings.get(name):
            return str(settings[name]), origin
    return "", ""


def _settings(folder: Path) -> list[tuple[str, Mapping[str, Any]]]:
    """Read settings by their source, in order of precedence."""
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
    """Read the active profile's name and settings; like Prefect, use `PREFECT_PROFILE` only from the environment."""
    path = (
        os.environ.get("PREFECT_PROFILES_PATH")
        or dotenv.get("PREFECT_PROFILES_PATH")
        or project.get("profiles_path")
        or pyproject.get("profiles_path")
        or _default_profiles()
    )
    content = _toml(Path(path))
    name = os.environ.get("PREFECT_PROFILE") or content.get("active") or ""
    return name, content.get("profiles", {}).get(name, {})


def _default_profiles() -> Path:
    if home := os.environ.get("PREFECT_HOME"):
        return Path(home) / "profiles.toml"
    own = Path.home() / ".prefect" / "profiles.toml"
    installed = find_spec("prefect")  # this doesn't import it
    if own.exists() or installed is None or installed.origin is None:
        return own
    return Path(installed.origin).parent / "settings" / "profiles.toml"


def _toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; empty if it is missing or invalid, as for Prefect."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _dotenv(path: Path) -> Mapping[str, Any]:
    from dotenv import dotenv_values  # installed with Prefect, which reads the file with it

    return dotenv_values(path) if path.is_file() else {}
