"""Run in a process of its own, under another KERAS_BACKEND: maps of saved networks against those beside them."""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import numpy as np

from histopipe.evaluation.explanation.maps import Explainer


def main(folder: Path) -> None:
    """Raise where this backend's maps of a network differ from the saved ones; print its name at the end."""
    patches = np.load(folder / "patches.npy")
    for file in sorted(folder.glob("*.keras")):
        network = keras.saving.load_model(file, compile=False, safe_mode=True)
        expected = np.load(file.with_suffix(".npy"))
        found = Explainer.for_network(network).maps(patches)
        assert found.dtype == np.float32 and found.shape == expected.shape, file.stem
        np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max(), err_msg=file.stem)
    print("backend:", keras.backend.backend())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
