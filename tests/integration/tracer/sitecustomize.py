"""Loaded by every Python process of a test's checkout: notes which of the checkout's modules a DVC stage loads."""

import atexit
import os
import sys
from pathlib import Path


def _note(stage: str, root: Path, folder: Path) -> None:
    files = {getattr(module, "__file__", None) for name, module in list(sys.modules.items()) if "histopipe" in name}
    paths = sorted(str(Path(file).relative_to(root)) for file in files if file and Path(file).is_relative_to(root))
    folder.mkdir(exist_ok=True)
    (folder / f"{stage}.{os.getpid()}").write_text("\n".join(paths), encoding="utf-8")


if {"DVC_STAGE", "DVC_ROOT", "LOADED_NOTES"} <= set(os.environ):
    _arguments = (os.environ["DVC_STAGE"], Path(os.environ["DVC_ROOT"]), Path(os.environ["LOADED_NOTES"]))
    atexit.register(_note, *_arguments)
