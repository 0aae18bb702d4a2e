"""New patches in archives and folders, and the command that predicts them."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from click.testing import CliRunner
from PIL import Image

from histopipe.cli import main


def picture(seed: int, size: tuple[int, int] = (50, 50), kind: str = "PNG", mode: str = "RGB") -> bytes:
    """Encode an image of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, kind)
    return stream.getvalue()


def members(count: int = 12) -> dict[str, bytes]:
    """Return patches of two cases on a grid, named as Kaggle names them."""
    names = [f"{8863 + number % 2}_idx5_x{50 * (number // 2) + 1}_y101_class0.png" for number in range(count)]
    return {f"{name[:4]}/0/{name}": picture(number) for number, name in enumerate(names)}


def zipped(path: Path, content: dict[str, bytes]) -> Path:
    """Write files into a ZIP; return its path."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def in_folder(path: Path, content: dict[str, bytes]) -> Path:
    """Write files into a folder; return its path."""
    for name, data in content.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def tarred(path: Path, content: dict[str, bytes]) -> Path:
    """Write files into a compressed TAR; return its path."""
    with tarfile.open(path, "w:gz") as archive:
        for name, data in content.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def run(*arguments: object) -> tuple[int, str]:
    """Run `histopipe predict`; return its exit code and the last line of its complaint, or its output."""
    done = CliRunner().invoke(main, ["predict", *map(str, arguments)])
    return done.exit_code, done.stderr.strip().splitlines()[-1] if done.stderr.strip() else done.output
