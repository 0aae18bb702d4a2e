"""Drawn patches in both forms: histopipe's store, and PNG files in folders by class, as in Keras' tutorials."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.ingest import full_size_archive
from benchmarks.recipes import ingest_into, shipped_params
from histopipe.core.workspace import Workspace
from histopipe.data.store import PatchStore


def drawn_store(folder: Path, patches: int) -> PatchStore:
    """Open a store of that many drawn patches; it is drawn and ingested once, then kept in `folder`."""
    workspace = Workspace(folder / f"store-{patches}")
    finished = workspace.root / "finished"
    if not finished.exists():
        ingest_into(workspace.root, "idc", full_size_archive(folder, patches), shipped_params())
        finished.touch()
    return PatchStore.open(workspace.store("idc"))


def class_folders(folder: Path, store: PatchStore) -> Path:
    """Write every patch of the store as a PNG file under `0/` or `1/`, once; it is kept in `folder`."""
    import imagecodecs

    target = folder / f"classes-{len(store.index)}"
    finished = target.with_suffix(".finished")
    if not finished.exists():
        for row, label in enumerate(store.index["label"]):
            path = target / str(label) / f"{row:06d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(imagecodecs.png_encode(store.gather(np.array([row]))[0]))
        finished.touch()
    return target
