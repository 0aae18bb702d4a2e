"""What a training tells of itself: the record that lies beside every network, and that later stages go by."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NotRequired, TypedDict

from histopipe.core.cases.readings import Reading
from histopipe.core.errors import HistopipeError
from histopipe.core.files import read_json, restoring, write_json
from histopipe.core.workspace import TRAINING_RECORD

Caps = dict[str, int | str]  # those of `quick` that were set, by name


class TrainingMarks(TypedDict, total=False):
    """What an evaluation takes over from the training; earlier versions didn't write all of it.

    Attributes:
        split_digest: SHA-256 of the split's file.
        recipe_digest: of the recipe, with the weights that it starts from.
        quick: the caps that the training was under; None where it had its whole recipe.
        leaky: whether it saw test cases; `unknown` where nobody knows what its weights have seen.
        unlisted_train: whether it also trained on cases that no published list has.
    """

    split_digest: str | None
    recipe_digest: str | None
    quick: Caps | None
    leaky: bool | Literal["unknown"] | None
    unlisted_train: bool | None


class TrainingNotes(TypedDict, total=False):
    """What a training notes on its way.

    Attributes:
        weights: what the network started from: what was asked for, the file and its origin, and how many variables came
            from it.
        classifier: settings of a classifier on frozen features.
    """

    weights: dict[str, str | int]
    classifier: dict[str, object]


class DataRecord(TypedDict):
    """Which data a training used, as `histopipe.tracking.provenance.Provenance` describes it.

    Attributes:
        data_set: the data set's name.
        kind: of its source; None where nobody knows.
        source: the value in `params.yaml`, without credentials.
        classes: names of the negative and of the positive class.
        archives: what the raw archive and the index made of it are told by, such as `sha256:…`.
        capped: whether `quick` capped the training; None where nobody knows.
        digests: of a sample of patches, separated by spaces.
        labels: of these patches, a digit each.
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
    """What a training took.

    Attributes:
        seconds: of training, without validation.
        patches_per_second: over all epochs; None where a history doesn't tell.
        peak_memory_mb: the most main memory that the process had, in 10^6 bytes.
    """

    seconds: float
    patches_per_second: float | None
    peak_memory_mb: float


class TrainingRecord(TrainingMarks, TrainingNotes):
    """Content of `run.json`; what earlier versions didn't write isn't required.

    Attributes:
        run_id: of the MLflow run.
        experiment: that the run belongs to.
        dataset: the data set's name.
        architecture: the recipe's name.
        parameters: of the network.
        split_scheme: as `split.scheme` is written.
        case_reading: what counts as a case, in data sets that have a choice.
        epochs: that were trained.
        best_epoch: the one whose weights the network has, counted from 1.
        effort: what it took.
        lineage: commit and hashes of the data, as the run's tags have them.
        versions: of Python and the packages in use.
        unknown_before: whether it started from weights of which nobody knows all cases.
        seen_before: cases, by data set, that trainings behind these weights trained or validated on.
        samples_before: digests of patches that those trainings saw, as `SeenData.samples`.
        train_cases, validation_cases: ids of the cases that it trained and validated on.
        data: which data it used.
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
    """Read the record that a training left.

    Args:
        path: as `Workspace.training_record` gives it.

    Raises:
        HistopipeError: it is missing or damaged.
    """
    record: TrainingRecord = read_json(path)
    if not isinstance(record, dict):
        raise HistopipeError(f"{path} is no record of a training: {restoring(path)}")
    return record


def write_training_record(folder: Path, record: TrainingRecord) -> None:
    """Write the record into the folder that holds the network."""
    write_json(folder / TRAINING_RECORD, record)
