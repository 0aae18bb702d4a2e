"""The record of a training (`run.json`): it is next to every network, and later stages read it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NotRequired, TypedDict

from histopipe.core.cases.readings import Reading
from histopipe.core.errors import HistopipeError
from histopipe.core.files import read_json, restore_command, write_json
from histopipe.core.workspace import TRAINING_RECORD

Caps = dict[str, int | str]  # the caps of `quick` that were set, by name


class CopiedTrainingFields(TypedDict, total=False):
    """Fields of a training's record that its evaluation copies; records of earlier versions may lack any of them.

    Attributes:
        split_digest: the SHA-256 of the split's file.
        recipe_digest: the digest of the recipe and its initial weights.
        quick: the caps of the training; None if it followed its whole recipe.
        leaky: whether the training saw test cases; `unknown` if the cases behind its initial weights are unknown.
        unlisted_train: whether it also trained on cases that are in no published list.
    """

    split_digest: str | None
    recipe_digest: str | None
    quick: Caps | None
    leaky: bool | Literal["unknown"] | None
    unlisted_train: bool | None


class RunningTrainingFields(TypedDict, total=False):
    """Fields of a training's record that are filled while the training runs.

    Attributes:
        weights: the initial weights: the recipe's value, the file and its origin, and the number of variables used.
        classifier: the chosen settings of a classifier on frozen features.
    """

    weights: dict[str, str | int]
    classifier: dict[str, object]


class DataRecord(TypedDict):
    """The data of a training, as `histopipe.tracking.provenance.Provenance` describes it.

    Attributes:
        data_set: the data set's name.
        kind: the kind of its source; None if unknown.
        source: the value in `params.yaml`, without credentials.
        classes: names of the negative and of the positive class.
        archives: identities of the raw archive and of its index, such as `sha256:…`.
        capped: whether `quick` capped the training; None if unknown.
        digests: digests of a sample of patches, separated by spaces.
        labels: the labels of these patches, one digit each.
    """

    data_set: str
    kind: str | None
    source: str
    classes: list[str]
    archives: list[str]
    capped: bool | None
    digests: str
    labels: str


class Effort(TypedDict):
    """The effort of a training.

    Attributes:
        seconds: the time of training, without validation.
        patches_per_second: the rate over all epochs; None if the history doesn't have it.
        peak_memory_mb: the most main memory that the process used, in 10^6 bytes.
    """

    seconds: float
    patches_per_second: float | None
    peak_memory_mb: float


class TrainingRecord(CopiedTrainingFields, RunningTrainingFields):
    """The content of `run.json`; keys that earlier versions didn't write aren't required.

    Attributes:
        run_id: the id of the MLflow run.
        experiment: the MLflow experiment of the run.
        dataset: the data set's name.
        architecture: the recipe's name (the key is older than the word).
        parameters: the number of parameters of the network.
        split_scheme: the value of `split.scheme`.
        case_reading: the reading of case ids, in data sets that have a choice.
        epochs: the number of trained epochs.
        best_epoch: the epoch whose weights the network has, counted from 1.
        effort: time and memory of the training.
        lineage: commit and hashes of the data, as in the run's tags.
        versions: versions of Python and the packages in use.
        unknown_before: whether some cases behind the initial weights are unknown.
        seen_before: cases, by data set, that trainings behind the initial weights trained or validated on.
        samples_before: digests of patches that those trainings saw, as `SeenData.samples`.
        train_cases, validation_cases: ids of the cases that it trained and validated on.
        data: the data of the training.
    """

    run_id: str
    experiment: str
    dataset: str
    architecture: str
    parameters: int
    split_scheme: NotRequired[str]
    case_reading: NotRequired[Reading]
    epochs: int
    best_epoch: int
    effort: NotRequired[Effort]
    lineage: NotRequired[dict[str, str]]
    versions: NotRequired[dict[str, str]]
    unknown_before: NotRequired[bool]
    seen_before: NotRequired[dict[str, list[str]]]
    samples_before: NotRequired[list[str]]
    train_cases: list[str]
    validation_cases: list[str]
    data: NotRequired[DataRecord | None]


def read_training_record(path: Path) -> TrainingRecord:
    """Read the record of a training.

    Args:
        path: the path that `Workspace.training_record` returns.

    Raises:
        HistopipeError: the record is missing or damaged.
    """
    record: TrainingRecord = read_json(path)
    if not isinstance(record, dict):
        raise HistopipeError(f"{path} is not the record of a training: {restore_command(path)}")
    return record


def write_training_record(folder: Path, record: TrainingRecord) -> None:
    """Write the record of a training into the network's folder."""
    write_json(folder / TRAINING_RECORD, record)
