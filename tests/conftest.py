"""What tests share: the real data where it is at hand, workspaces of their own, archives built to order."""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

os.environ.setdefault("DVC_NO_ANALYTICS", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if "PYTEST_XDIST_WORKER" in os.environ:  # one core each, else as many threads as cores times workers
    for threads in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(threads, "1")

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"

Machine = Callable[[int], None]


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
        lines = "\n".join(f"echo 'GPU {number}: NVIDIA A100 (UUID: GPU-{number}f)'" for number in range(gpus))
        command = tmp_path_factory.mktemp("driver") / "nvidia-smi"
        command.write_text(f'#!/bin/sh\n[ "$1" = --list-gpus ] || exit 1\n{lines}\n')
        command.chmod(0o755)
        monkeypatch.setenv("PATH", os.pathsep.join([str(command.parent), os.environ["PATH"]]))

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return make


def png(height: int = 50, width: int = 50, seed: int = 0, mode: str = "RGB") -> bytes:
    """An encoded image of random pixels."""
    import io

    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, format="PNG")
    return buffer.getvalue()


def patch_name(case: object, x: int, y: int, label: int, folder: object | None = None) -> str:
    """A member's name in Kaggle's layout."""
    return f"{case}/{label if folder is None else folder}/{case}_idx5_x{x}_y{y}_class{label}.png"


def idc_members(cases: int = 6, patches: int = 20) -> dict[str, bytes]:
    """A small, faultless archive's content: every case has both classes."""
    return {
        patch_name(10000 + case, 50 * number + 1, 51, number % 2): png(seed=case * 1000 + number)
        for case in range(cases)
        for number in range(patches)
    }


def write_zip(path: Path, members: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path
