"""compose.yaml, which Docker alone runs whole: what can be known of it without (its servers are started elsewhere)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from histopipe.operations.doctor.machine import read_lock
from tests.builders import compose, servers
from tests.builders.paths import ROOT

TEXT = (ROOT / "compose.yaml").read_text(encoding="utf-8")
PAGE = (ROOT / "docs/production.md").read_text(encoding="utf-8")
SERVICES: dict[str, dict[str, Any]] = compose.COMPOSE["services"]
SECRET = re.compile(r"PASSWORD|SECRET|AUTH_STRING")


def built() -> list[str]:
    """Dockerfiles of the images that are built."""
    return [service["build"]["dockerfile_inline"] for service in SERVICES.values() if "build" in service]


def test_no_secret_stands_in_it_and_nothing_starts_without_one() -> None:
    for name, service in SERVICES.items():
        for key, value in service.get("environment", {}).items():
            if SECRET.search(key):
                assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", value), f"{name}: {key}"
    required = {found["name"] for found in compose.VARIABLE.finditer(TEXT) if found["kind"] == "?"}
    assert required == set(compose.PLANTED)
    assert not [name for name in required if f"{name}=" not in PAGE]
    assert ".env" in (ROOT / ".gitignore").read_text().split()


def test_what_it_installs_is_what_the_lock_pins() -> None:
    pinned = read_lock(ROOT / "requirements-dev.lock")
    for dockerfile in built():
        command = re.search(r"pip install --no-cache-dir(.*)", dockerfile.replace("\\\n", " "))
        assert command and "-c /tmp/requirements-dev.lock" in command[1]
        words = [word for word in command[1].split() if not word.startswith(("-", "/"))]
        assert words and {word.partition("[")[0] for word in words} <= set(pinned)
        assert dockerfile.startswith("FROM python:3.11-")  # the oldest that is tested with


def test_what_it_pulls_is_pinned_and_its_postgresql_is_the_one_that_is_tested_with() -> None:
    pulled = {name: service["image"] for name, service in SERVICES.items() if "build" not in service}
    for image in pulled.values():
        assert re.search(r":v?\d+(\.\d+)+", image), image
    programs = servers.postgres_folder()
    said = subprocess.run([programs / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    installed = re.search(r"(\d+)\.", said)
    if installed and not Path("/etc/debian_version").exists():
        pytest.skip("another system's PostgreSQL may be another release")
    assert installed and re.match(rf"postgres:{installed[1]}\.", pulled["postgres"])


def test_every_server_says_when_it_is_well_and_waits_for_those_it_needs() -> None:
    for name in ("postgres", "s3", "mlflow", "prefect"):
        assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"
        assert SERVICES[name]["restart"] == "unless-stopped"
    assert set(SERVICES["mlflow"]["depends_on"]) == {"postgres", "buckets"}
    assert set(SERVICES["worker"]["depends_on"]) == {"mlflow", "prefect"}
    assert SERVICES["worker"]["profiles"] == ["worker"]


def test_the_worker_has_the_program_that_stages_run(tmp_path: Path) -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].values()
    (command,) = {" ".join(stage["cmd"].split()[:2]) for stage in stages}
    launcher, program = command.split()
    assert os.access(ROOT / launcher, os.X_OK)
    dockerfile = SERVICES["worker"]["build"]["dockerfile_inline"].replace("\\\n", " ").replace("$$", "$")
    (made,) = re.findall(r"^RUN (.* >/usr/local/bin/.*)$", dockerfile, re.MULTILINE)
    subprocess.run(made.replace("/usr/local/bin", str(tmp_path)), shell=True, check=True)
    assert [path.name for path in tmp_path.iterdir()] == [program]
    (tmp_path / "python").symlink_to(sys.executable)
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), *sys.path]))}
    said = subprocess.check_output(f"{command} train --help", shell=True, cwd=ROOT, env=path, text=True)
    assert "histopipe train" in said


def test_what_must_outlast_a_container_lies_in_a_volume() -> None:
    mounted = [
        volume.partition(":")[0] for name in ("postgres", "s3", "prefect") for volume in SERVICES[name]["volumes"]
    ]
    assert set(mounted) == set(compose.COMPOSE["volumes"])
    (leases,) = SERVICES["prefect"]["volumes"]
    assert leases.endswith(SERVICES["prefect"]["environment"]["PREFECT_HOME"])


def test_only_this_machine_reaches_it_unless_asked_for() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published and all(port.startswith("${BIND:-127.0.0.1}:") for port in published)


def test_it_agrees_with_prefect_yaml_and_with_the_page() -> None:
    deployed = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    command = SERVICES["worker"]["command"]
    assert {one["work_pool"]["name"] for one in deployed} == {command[command.index("--pool") + 1]}
    from flows.serve import LASTING_LEASES

    assert LASTING_LEASES.items() <= SERVICES["prefect"]["environment"].items()
    for name, value in LASTING_LEASES.items():
        assert f"{name}={value}" in PAGE
