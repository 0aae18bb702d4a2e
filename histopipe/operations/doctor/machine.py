"""Python, installed versions, GPUs and disk."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from histopipe.core.files import as_size
from histopipe.core.workers import available_cores
from histopipe.core.workspace import Workspace
from histopipe.operations.doctor.finding import Finding

PYTHONS = ((3, 11), (3, 13))  # pyproject.toml's first and last
SHOWN = 3  # packages named; the rest are counted
SCARCE, LITTLE = 2 * 10**9, 20 * 10**9  # bytes free: a short run's store and models; a full archive's, twice

_PINNED = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;]+)\s*(?P<condition>;.*)?$")


def python() -> Finding:
    """Whether this Python is one that histopipe is tested with."""
    first, last = PYTHONS
    said = f"{platform.python_version()}, {available_cores()} cores, {as_size(psutil.virtual_memory().total)} memory"
    if first <= sys.version_info[:2] <= last:
        return Finding("Python", said)
    wanted = f"{first[0]}.{first[1]} to {last[0]}.{last[1]}"
    return Finding(
        "Python", said, "warning", f"tested with {wanted}: `make clean`, then `make repro PYTHON=python3.11`"
    )


def packages(workspace: Workspace) -> Finding:
    """Whether what is installed is what `requirements.lock` names."""
    lock = workspace.root / "requirements.lock"
    if not lock.exists():
        return Finding("packages", "no requirements.lock here", "warning", "`git checkout requirements.lock`")
    pinned = read_lock(lock)
    others = {name: found for name, wanted in pinned.items() if (found := _installed(name)) != wanted}
    if not others:
        return Finding("packages", f"all {len(pinned)} as in requirements.lock")
    named = [f"{name} {found or 'missing'} (not {pinned[name]})" for name, found in sorted(others.items())]
    more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
    said = f"{len(others)} of {len(pinned)} differ: {', '.join(named[:SHOWN])}{more}"
    return Finding("packages", said, "warning", ".venv/bin/pip install -r requirements.lock")


def read_lock(path: Path) -> dict[str, str]:
    """Version by package of what a lock asks for on this machine."""
    from packaging.markers import Marker

    found = (_PINNED.match(line) for line in path.read_text(encoding="utf-8").splitlines())
    return {
        match["name"]: match["version"]
        for match in found
        if match and (not match["condition"] or Marker(match["condition"][1:].strip()).evaluate())
    }


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def gpu() -> Finding:
    """Which GPUs the driver shows, and whether TensorFlow can use them."""
    if shutil.which("nvidia-smi") is None:
        return Finding("GPU", "none: trainings run on the processor")
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False).stdout
    names = [line.partition(": ")[2].partition(" (")[0] for line in listed.splitlines() if line.startswith("GPU ")]
    if not names:
        return Finding("GPU", "nvidia-smi lists none", "warning", "see to the driver: `nvidia-smi` says what it lacks")
    usable = _gpus_of_tensorflow()
    if usable < len(names):
        said = f"{', '.join(names)}, of which TensorFlow sees {usable}"
        return Finding("GPU", said, "warning", '.venv/bin/pip install -c requirements.lock -e ".[gpu]"')
    return Finding("GPU", ", ".join(names))


def _gpus_of_tensorflow() -> int:
    """Counted in a process of its own: looking takes their memory."""
    code = "import tensorflow as tf; print(len(tf.config.list_physical_devices('GPU')))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stdout
    last = answer.split()[-1:] or ["0"]
    return int(last[0]) if last[0].isdigit() else 0


def disk(workspace: Workspace) -> Finding:
    """Whether there is room for a run."""
    free = shutil.disk_usage(workspace.root).free
    said = f"{as_size(free)} free at {workspace.root}"
    if free < SCARCE:
        return Finding(
            "disk",
            said,
            "error",
            "make room: even a short run needs 2 GB (`dvc gc --workspace --dry` says what DVC could drop)",
        )
    if free < LITTLE:
        return Finding("disk", said, "warning", "a full archive, its store and DVC's copies of both need 20 GB")
    return Finding("disk", said)
