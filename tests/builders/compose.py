"""compose.yaml as tests start it: the same commands and environments, on this machine's ports."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

import yaml

from tests.builders.paths import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
PLANTED = {  # the variables that it requires, each with a secret that no log may show
    "POSTGRES_PASSWORD": "planted-database-secret",
    "S3_SECRET_KEY": "planted-s3-secret",
    "MLFLOW_ADMIN_PASSWORD": "planted-mlflow-secret",
    "MLFLOW_SECRET_KEY": "planted-cookie-secret",
    "PREFECT_AUTH": "admin:planted-prefect-secret",
}
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<kind>[?-])(?P<text>[^}]*))?\}")


def filled(text: str, variables: Mapping[str, str]) -> str:
    """Put variables into a text, as Docker would."""

    def value(match: re.Match[str]) -> str:
        return variables.get(match["name"], match["text"] if match["kind"] == "-" else "") or match["text"]

    return VARIABLE.sub(value, text)


def command(service: str, options: Mapping[str, str], variables: Mapping[str, str] = PLANTED) -> list[str]:
    """Return what a service runs, by this Python.

    Args:
        service: its name.
        options: values that stand in place of the file's, by option such as `--port`.
        variables: that the file asks for.
    """
    program, *rest = (filled(word, variables) for word in COMPOSE["services"][service]["command"])
    for option, value in options.items():
        rest[rest.index(option) + 1] = value
    return [sys.executable, *(["-m", program] if program != "python" else []), *rest]


def environment(service: str, **changed: str) -> dict[str, str]:
    """Return what a service finds in its environment, with some of it changed: addresses, and paths of this machine."""
    described = COMPOSE["services"][service]["environment"]
    assert set(changed) <= set(described), set(changed) - set(described)
    return {name: filled(value, PLANTED) for name, value in described.items()} | changed


def content(config: str) -> str:
    """Return the content of a file that the servers are given."""
    return str(COMPOSE["configs"][config]["content"])
