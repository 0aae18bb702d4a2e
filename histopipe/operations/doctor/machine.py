"""Checks of Python, installed packages, GPUs and the disk."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from histopipe.core.files import format_size
from histopipe.core.processes import available_cores
from histopipe.core.workspace import Workspace
from histopipe.operations.doctor.finding import Finding

PYTHONS = ((3, 11), (3, 13))  # the first and last of pyproject.toml
SHOWN = 3  # packages that are named; the rest are counted
SCARCE, LITTLE = 2 * 10**9, 20 * 10**9  # free bytes: for a short run; for a full archive, its store and DVC's copies

_PINNED = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;]+)\s*(?P<condition>;.*)?$")


def check_python() -> Finding:
    """Check that histopipe is tested with this version of Python."""
    first, last = PYTHONS
    observation = (
        f"{platform.python_version()}, {available_cores()} cores, {format_size(psutil.virtual_memory().total)} memory"
    )
    if first <= sys.version_info[:2] <= last:
        return Finding("Python", observation)
    supported = f"{first[0]}.{first[1]} to {last[0]}.{last[1]}"
    return Finding(
        "Python", observation, "warning", f"tested with {supported}: `make clean`, then `make repro PYTHON=python3.11`"
    )


def check_packages(workspace: Workspace) -> Finding:
    """Compare the installed packages with `requirements.lock`."""
    lock = workspace.root / "requirements.lock"
    if not lock.exists():
        return Finding("packages", "no requirements.lock here", "warning", "`git checkout requirements.lock`")
    pinned = read_lock(lock)
    installed = {name: _installed_version(name) for name in pinned}
    others = {name: installed[name] for name in pinned if installed[name] != pinned[name]}
    if not others:
        return Finding("packages", f"all {len(pinned)} as in requirements.lock")
    named = [f"{name} {other or 'missing'} (not {pinned[name]})" for name, other in sorted(others.items())]
    more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
    observation = f"{len(others)} of {len(pinned)} differ: {', '.join(named[:SHOWN])}{more}"
    return Finding("packages", observation, "warning", ".venv/bin/pip install -r requirements.lock")


def read_lock(path: Path) -> dict[str, str]:
    """Read the version of each package that a lock file requires on this machine."""
    from packaging.markers import Marker

    matches = (_PINNED.match(line) for line in path.read_text(encoding="utf-8").splitlines())
    return {
        match["name"]: match["version"]
        for match in matches
        if match and (not match["condition"] or Marker(match["condition"][1:].strip()).evaluate())
    }


def _installed_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def check_gpu() -> Finding:
    """List the GPUs that the driver shows, and check that TensorFlow can use them."""
    if shutil.which("nvidia-smi") is None:
        return Finding("GPU", "none: trainings run on the processor")
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False).stdout
    names = [line.partition(": ")[2].partition(" (")[0] for line in listed.splitlines() if line.startswith("GPU ")]
    if not names:
        return Finding(
            "GPU", "nvidia-smi lists none", "warning", "check the driver: `nvidia-smi` reports what is missing"
        )
    usable = _gpus_of_tensorflow()
    if usable < len(names):
        observation = f"{', '.join(names)}, of which TensorFlow sees {usable}"
        return Finding("GPU", observation, "warning", '.venv/bin/pip install -c requirements.lock -e ".[gpu]"')
    return Finding("GPU", ", ".join(names))


def _gpus_of_tensorflow() -> int:
    """Count the GPUs in a child process, since TensorFlow allocates their memory."""
    code = "import tensorflow as tf; print(len(tf.config.list_physical_devices('GPU')))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stdout
    last = answer.split()[-1:] or ["0"]
    return int(last[0]) if last[0].isdigit() else 0


def check_disk(workspace: Workspace) -> Finding:
    """Check that the disk has space for a run."""
    free = shutil.disk_usage(workspace.root).free
    observation = f"{format_size(free)} free at {workspace.root}"
    if free < SCARCE:
        return Finding(
            "disk",
            observation,
            "error",
            "free some space: even a short run needs 2 GB (`dvc gc --workspace --dry` lists what DVC could remove)",
        )
    if free < LITTLE:
        return Finding("disk", observation, "warning", "a full archive, its store and DVC's copies of both need 20 GB")
    return Finding("disk", observation)
