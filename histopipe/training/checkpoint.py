"""What a killed training resumes from: weights, optimizer, seed generators, history and run id, in one file.

One file, replaced whole after each epoch, so that its parts always belong together. Plain arrays, no pickle.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from histopipe.architectures import network_code
from histopipe.files import file_digest, read_json, replaced_file, write_json
from histopipe.paths import Workspace

if TYPE_CHECKING:
    import keras

CHECKPOINT_FILE = "checkpoint.npz"
FINISHED_FILE = "finished.json"
SHARED_CODE = (
    "augmentation.py",
    "backend.py",
    "loading.py",
    "opencv.py",
    "prediction.py",
    "resampling.py",
    "sampling.py",
    "splitting/membership.py",
    "store.py",
    "symmetry.py",
)


@dataclass
class Progress:
    """How far a training has come.

    Attributes:
        key: digest of parameters, inputs and code; progress under another key is worthless.
        run_id: the MLflow run that records it.
        history: one row of metrics per finished epoch.
        notes: what else `run.json` is to say.
    """

    key: str
    run_id: str | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)


def training_key(recipe: str, workspace: Workspace, dataset: str, architecture_module: str) -> str:
    """Digest of everything that decides a training's result: parameters, data, split and code."""
    package = Path(__file__).parents[1]
    code = [*(package / name for name in SHARED_CODE), *network_code(architecture_module)]
    inputs = [
        workspace.store(dataset) / "index.parquet",
        workspace.split(dataset),
        workspace.root / "requirements.lock",
    ]
    files = [*code, *sorted((package / "training").glob("*.py")), *(path for path in inputs if path.exists())]
    return hashlib.sha256("\n".join([recipe, *map(file_digest, files)]).encode()).hexdigest()


def save_checkpoint(
    folder: Path, progress: Progress, variables: Sequence[keras.Variable], kept: Sequence[NDArray[Any]] = ()
) -> None:
    """Write the training's whole state, in place of the last one.

    Args:
        folder: of the checkpoint.
        progress: how far the training has come.
        variables: all that the next epoch depends on.
        kept: the weights that the result has if training ends here, where those aren't the last ones.
    """
    from keras import ops

    arrays = {f"variable_{number:05d}": ops.convert_to_numpy(value) for number, value in enumerate(variables)}
    arrays |= {f"kept_{number:05d}": value for number, value in enumerate(kept)}
    text = np.frombuffer(json.dumps(asdict(progress)).encode(), np.uint8)
    with replaced_file(folder / CHECKPOINT_FILE) as beside, beside.open("wb") as stream:
        np.savez(stream, allow_pickle=False, progress=text, **arrays)


def load_progress(folder: Path, key: str) -> Progress:
    """The progress kept under `key`; a fresh one where there is none."""
    try:
        with np.load(folder / CHECKPOINT_FILE, allow_pickle=False) as arrays:
            progress = Progress(**json.loads(arrays["progress"].tobytes()))
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return Progress(key)
    return progress if progress.key == key else Progress(key)


def restore_variables(folder: Path, variables: Iterable[keras.Variable]) -> None:
    """Put the checkpoint's values into a freshly built training."""
    with np.load(folder / CHECKPOINT_FILE, allow_pickle=False) as arrays:
        for number, variable in enumerate(variables):
            variable.assign(arrays[f"variable_{number:05d}"])


def kept_weights(folder: Path) -> list[NDArray[Any]]:
    """The weights that the result has if training ended here; none where those are the last ones."""
    with np.load(folder / CHECKPOINT_FILE, allow_pickle=False) as arrays:
        return [arrays[name] for name in sorted(arrays.files) if name.startswith("kept_")]


def all_variables(model: Any) -> list[Any]:
    """Weights, random states of every layer, and the optimizer's slots: all that the next epoch depends on."""
    return [*model.variables, *model.optimizer.variables]


def mark_finished(folder: Path, record: Path) -> None:
    """Note that the training is over and which `run.json` it wrote, by the hash that DVC will give it."""
    write_json(folder / FINISHED_FILE, {"md5": hashlib.md5(record.read_bytes(), usedforsecurity=False).hexdigest()})


def forget_finished(folder: Path, recorded: str | None) -> None:
    """Drop the checkpoint of a training whose result DVC has on record: whoever starts it again wants it anew.

    Args:
        folder: of the checkpoint.
        recorded: the hash of `run.json` in `dvc.lock`.
    """
    marker = folder / FINISHED_FILE
    if recorded and marker.exists() and read_json(marker)["md5"] == recorded:
        (folder / CHECKPOINT_FILE).unlink(missing_ok=True)
    marker.unlink(missing_ok=True)
