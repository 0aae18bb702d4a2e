"""The state that a killed training resumes from: weights, optimizer, seed generators, history and run id.

It is one file, replaced as a whole after each epoch, so that its parts always belong together. Plain arrays, no pickle.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from histopipe.core.errors import HistopipeError, TrainingError, one_line
from histopipe.core.files import file_digest, read_json, replaced_file, write_json
from histopipe.core.training_record import RunningTrainingFields
from histopipe.core.workspace import Workspace
from histopipe.networks.architectures import network_code

if TYPE_CHECKING:
    import keras

LOG = logging.getLogger(__name__)
CHECKPOINT_FILE = "checkpoint.npz"
FINISHED_FILE = "finished.json"
TRAINING_CODE = (  # files and folders, as dvc.yaml names them for `train`; the network's own code is added
    "core/cases",
    "core/colours.py",
    "data/leakage.py",
    "data/sampling.py",
    "data/splitting/copies.py",
    "data/splitting/membership.py",
    "data/store.py",
    "networks/backend.py",
    "networks/prediction.py",
    "networks/symmetry.py",
    "networks/weights/loading.py",
    "tracking/provenance.py",
    "training",
)


@dataclass
class Progress:
    """The state of a training between epochs.

    Attributes:
        key: digest of parameters, inputs and code; progress under another key can't be used.
        run_id: id of the MLflow run that records the training.
        history: one row of metrics per finished epoch.
        notes: further entries of `run.json`.
    """

    key: str
    run_id: str | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    notes: RunningTrainingFields = field(default_factory=RunningTrainingFields)


class DamagedCheckpoint(Exception):
    """A checkpoint can't be read, or doesn't fit its training."""


def training_key(
    recipe: str, workspace: Workspace, dataset: str, architecture_module: str, split_digest: str | None = None
) -> str:
    """Compute a digest of everything that decides a training's result: parameters, data, split and code.

    Args:
        recipe: digest of the recipe.
        workspace: workspace with data and split.
        dataset: name of the data set.
        architecture_module: module of the network's code.
        split_digest: digest of the split as it was read; by default that of the present file.
    """
    code = [*_training_code(), *network_code(architecture_module)]
    split = split_digest or _digest_if_there(workspace.split(dataset))
    data = _digest_if_there(workspace.store(dataset) / "index.parquet")
    packages = _digest_if_there(workspace.root / "requirements.lock")
    digests = [recipe, *map(file_digest, code), *(digest for digest in (data, split, packages) if digest)]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _training_code() -> list[Path]:
    paths = [Path(__file__).parents[1] / name for name in TRAINING_CODE]
    return [file for path in paths for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path])]


def _digest_if_there(path: Path) -> str | None:
    return file_digest(path) if path.exists() else None


def save_checkpoint(
    folder: Path, progress: Progress, variables: Sequence[keras.Variable], kept: Sequence[NDArray[Any]] = ()
) -> None:
    """Write the training's whole state, replacing the previous one.

    Args:
        folder: folder of the checkpoint.
        progress: progress of the training.
        variables: all variables that the next epoch depends on.
        kept: weights of the result if training ends here, where those aren't the current ones.
    """
    from keras import ops

    arrays = {f"variable_{number:05d}": ops.convert_to_numpy(value) for number, value in enumerate(variables)}
    arrays |= {f"kept_{number:05d}": value for number, value in enumerate(kept)}
    text = np.frombuffer(json.dumps(asdict(progress)).encode(), np.uint8)
    with replaced_file(folder / CHECKPOINT_FILE) as file, file.open("wb") as stream:
        np.savez(stream, allow_pickle=False, progress=text, **arrays)


def load_progress(folder: Path, key: str) -> Progress:
    """Load the progress saved under `key`; start afresh where there is none, or with a warning where it is damaged.

    Raises:
        TrainingError: this user isn't allowed to read the checkpoint.
    """
    path = folder / CHECKPOINT_FILE
    try:
        return _read_progress(path, key)
    except FileNotFoundError:
        return Progress(key)
    except PermissionError:
        raise TrainingError(
            f"{path} can't be read: allow yourself to read it, or move it away to train from the start"
        ) from None
    except Exception as problem:  # zipfile, NumPy and json raise anything over damaged bytes
        warn_of_damage(path, problem)
        if path.is_dir():
            _set_aside(path)
        return Progress(key)


def _read_progress(path: Path, key: str) -> Progress:
    """Read the progress; if it belongs to this training, check all arrays too."""
    with np.load(path, allow_pickle=False) as arrays:
        content = json.loads(arrays["progress"].tobytes())
        if not _is_progress(content):
            raise DamagedCheckpoint("it holds no progress")
        if content["key"] != key:
            return Progress(key)
        for name in arrays.files:
            arrays[name]  # reading it checks its checksum
    return Progress(**content)


def _is_progress(content: Any) -> bool:
    if not isinstance(content, dict) or set(content) != {"key", "run_id", "history", "notes"}:
        return False
    rows = content["history"]
    has_rows = isinstance(rows, list) and all(isinstance(row, dict) for row in rows)
    has_numbers = has_rows and all(isinstance(value, int | float) for row in rows for value in row.values())
    return has_numbers and isinstance(content["notes"], dict) and isinstance(content["run_id"], str | None)


def warn_of_damage(path: Path, problem: Exception) -> None:
    """Warn in one line that a checkpoint is damaged and that the training starts over."""
    reason = one_line(problem, 80)
    LOG.warning("%s is damaged (%s): the training starts over", path, reason)


def _set_aside(path: Path) -> None:
    """Rename a folder that has a file's name."""
    path.rename(path.with_name(f"{path.name}.{secrets.token_hex(4)}.damaged"))


def restore_variables(
    folder: Path, variables: Sequence[keras.Variable], kept: Sequence[keras.Variable]
) -> list[NDArray[Any]]:
    """Assign the checkpoint's values to a freshly built training: all of them or none.

    Args:
        folder: folder of the checkpoint.
        variables: variables of the training.
        kept: variables of the network whose weights are the result.

    Returns:
        Weights of the result if training ended here; empty where those are the current ones.

    Raises:
        DamagedCheckpoint: the arrays don't fit the training.
    """
    with np.load(folder / CHECKPOINT_FILE, allow_pickle=False) as arrays:
        values = [arrays[name] for name in sorted(arrays.files) if name.startswith("variable_")]
        weights = [arrays[name] for name in sorted(arrays.files) if name.startswith("kept_")]
    if not _fit(values, variables) or not (_fit(weights, kept) or not weights):
        raise DamagedCheckpoint("its arrays are of another network")
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    return weights


def _fit(values: Sequence[NDArray[Any]], variables: Sequence[keras.Variable]) -> bool:
    return [value.shape for value in values] == [tuple(variable.shape) for variable in variables]


def all_variables(model: Any) -> list[Any]:
    """List the weights, random states and optimizer slots: all that the next epoch depends on."""
    return [*model.variables, *model.optimizer.variables]


def mark_finished(folder: Path, record: Path) -> None:
    """Record that the training is over and which `run.json` it wrote, by the hash that DVC will compute."""
    write_json(folder / FINISHED_FILE, {"md5": hashlib.md5(record.read_bytes(), usedforsecurity=False).hexdigest()})


def forget_finished(folder: Path, recorded: str | None) -> None:
    """Delete the checkpoint of a training whose result DVC has recorded, so that a repeated one starts over.

    Args:
        folder: folder of the checkpoint.
        recorded: hash of `run.json` in `dvc.lock`.
    """
    marker = folder / FINISHED_FILE
    if recorded and _finished_record(marker) == recorded:
        (folder / CHECKPOINT_FILE).unlink(missing_ok=True)
    if marker.is_dir():
        _set_aside(marker)
    marker.unlink(missing_ok=True)


def _finished_record(marker: Path) -> str | None:
    """Return the hash of the record that a finished training wrote; None where there is no readable one."""
    try:
        return str(read_json(marker)["md5"]) if marker.exists() else None
    except (HistopipeError, OSError, TypeError, KeyError):
        LOG.warning("%s is damaged: the training resumes from its checkpoint", marker)
        return None
