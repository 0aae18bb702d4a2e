"""Fixtures of all tests: the real data where it is at hand, workspaces of their own, a small disk, GPUs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.builders.machines import Machine, write_driver
from tests.builders.paths import ROOT, SHARED

os.environ.setdefault("DVC_NO_ANALYTICS", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if "PYTEST_XDIST_WORKER" in os.environ:  # one core each, else as many threads as cores times workers
    for threads in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(threads, "1")


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers and flows of the surroundings stay out of the tests."""
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "DVC_STAGE", "DVC_ROOT", "DVC_EXP_NAME", "HISTOPIPE_PARENT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def real() -> Callable[[str], Path]:
    """Path of a real file by name; skips where the data isn't at hand."""

    def find(name: str) -> Path:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"needs the real data: {name} in a folder shared/data beside the checkout")
        return path

    return find


@pytest.fixture
def content() -> dict[str, Any]:
    """The content of the checkout's params.yaml, to be changed by a test."""
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    return loaded


@pytest.fixture
def params(content: dict[str, Any]) -> Any:
    from histopipe.core.params import parse_params

    return parse_params(content)


@pytest.fixture(scope="session")
def tracking_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database as MLflow makes it at its first use, which takes it seconds."""
    import mlflow

    path = tmp_path_factory.mktemp("tracking") / "mlflow.db"
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{path}")
    mlflow.search_experiments()
    mlflow.set_tracking_uri(before)
    return path


@pytest.fixture
def workspace(tmp_path: Path, tracking_database: Path) -> Any:
    from histopipe.core.workspace import Workspace

    shutil.copy(tracking_database, tmp_path / "mlflow.db")
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    return Workspace(tmp_path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 3 MB; mounting one takes root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("needs root to mount a small file system (run the tests as root in a container)")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def machine(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Makes this a machine with so many GPUs, as its driver's own command tells."""

    def make(gpus: int) -> None:
        driver = write_driver(tmp_path_factory.mktemp("driver"), gpus)
        monkeypatch.setenv("PATH", os.pathsep.join([str(driver.parent), os.environ["PATH"]]))

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return make
