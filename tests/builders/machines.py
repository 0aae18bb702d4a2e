"""Machines with GPUs, as far as their driver's command tells."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

Machine = Callable[[int], None]


def write_driver(folder: Path, gpus: int) -> Path:
    """Write an `nvidia-smi` that lists so many GPUs; return its path."""
    lines = "\n".join(f"echo 'GPU {number}: NVIDIA A100 (UUID: GPU-{number}f)'" for number in range(gpus))
    command = folder / "nvidia-smi"
    command.write_text(f'#!/bin/sh\n[ "$1" = --list-gpus ] || exit 1\n{lines}\n')
    command.chmod(0o755)
    return command
