"""Archives and folders of patches, and their members in Kaggle's layout."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.builders.images import png


def patch_name(case: object, x: int, y: int, label: int, folder: object | None = None) -> str:
    """Return a member's name in Kaggle's layout."""
    return f"{case}/{label if folder is None else folder}/{case}_idx5_x{x}_y{y}_class{label}.png"


def idc_members(cases: int = 6, patches: int = 20) -> dict[str, bytes]:
    """Return the members of a small, faultless archive, where every case has both classes."""
    return {
        patch_name(10000 + case, 50 * number + 1, 51, number % 2): png(seed=case * 1000 + number)
        for case in range(cases)
        for number in range(patches)
    }


def write_zip(path: Path, members: Mapping[str, bytes]) -> Path:
    """Write members into a ZIP; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def write_tar(path: Path, members: Mapping[str, bytes], mode: Any = "w") -> Path:
    """Write members into a TAR in GNU's format; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode, format=tarfile.GNU_FORMAT) as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path
