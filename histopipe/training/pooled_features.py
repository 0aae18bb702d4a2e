"""Pooled features of patches: computed once, in chunks that survive a kill, read layer by layer."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from histopipe.core.errors import one_line
from histopipe.core.files import replaced_file
from histopipe.data.store import PatchStore, Rows
from histopipe.networks.prediction import KerasNetwork, patch_bar

if TYPE_CHECKING:
    import keras

LOG = logging.getLogger(__name__)
FOLDER = "features"  # next to the checkpoint
CHUNK = 4096  # patches: the most that a kill loses
BATCH_SIZE = 64

Features = NDArray[np.float32]  # (patches, channels)


def discard_features(checkpoints: Path) -> None:
    """Delete the features that a training computed, once its result is saved."""
    shutil.rmtree(checkpoints / FOLDER, ignore_errors=True)


@dataclass(frozen=True)
class PooledFeatures:
    """Features of several layers on disk.

    Attributes:
        folder: folder of the chunks; each training needs its own.
        layers: names of the layers.
    """

    folder: Path
    layers: Sequence[str]

    def compute(self, network: keras.Model, store: PatchStore, rows: Rows, title: str) -> None:
        """Compute the missing chunks; memory holds one of them at a time.

        Args:
            network: network from raw patches to one array (batch, channels) per layer.
            store: store of the patches.
            rows: positions in the store's index, in the order in which `read` returns them.
            title: title of the progress bar.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        runtime = KerasNetwork(network, (BATCH_SIZE,))
        with patch_bar(len(rows), title) as bar:
            for start in range(0, len(rows), CHUNK):
                part = rows[start : start + CHUNK]
                if not self._is_complete(start, len(part)):
                    self._write(start, _predict(runtime, store, part, bar))
                else:
                    bar.update(len(part))

    def read(self, layer: str, count: int) -> Features:
        """Read the features of one layer for the first `count` rows, (count, channels)."""
        parts = []
        for start in range(0, count, CHUNK):
            with np.load(self._chunk(start), allow_pickle=False) as arrays:
                parts.append(arrays[f"layer_{self.layers.index(layer)}"])
        return np.concatenate(parts)[:count]

    def discard(self) -> None:
        """Delete the chunks."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _is_complete(self, start: int, count: int) -> bool:
        """Return whether a chunk is there with all layers of that many patches; warn where it is damaged."""
        path = self._chunk(start)
        try:
            with np.load(path, allow_pickle=False) as arrays:
                counts = {len(arrays[f"layer_{number}"]) for number in range(len(self.layers))}
        except FileNotFoundError:
            return False
        except Exception as problem:  # zipfile and NumPy raise anything over damaged bytes
            reason = one_line(problem, 80)
            LOG.warning("%s is damaged (%s): its features are computed again", path, reason)
            return False
        return counts == {count}

    def _chunk(self, start: int) -> Path:
        return self.folder / f"{start:09d}.npz"

    def _write(self, start: int, arrays: Sequence[Features]) -> None:
        with replaced_file(self._chunk(start)) as file, file.open("wb") as stream:
            named = {f"layer_{number}": array for number, array in enumerate(arrays)}
            np.savez(stream, allow_pickle=False, **named)


def _predict(network: KerasNetwork, store: PatchStore, rows: Rows, bar: tqdm) -> list[Features]:
    return network.predict_rows(store, rows, bar.update)
