"""The record of an exported file: its description, its agreement with Keras, and its latency."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict

if TYPE_CHECKING:
    from histopipe.evaluation.intervals import Estimate


class ModelFacts(TypedDict, total=False):
    """Description of the model in an exported file; unknown entries are left out.

    Attributes:
        model: the registered model's name, or else the address by which the model was requested.
        version: the number of the registered version.
        architecture: the recipe's name.
        run_id: id of the run that logged the model.
        git_commit: the commit of the code that trained it.
    """

    model: str
    version: str
    architecture: str
    run_id: str
    git_commit: str


class FileFacts(ModelFacts):
    """Description of an exported file, which is in the file itself and in the JSON next to it.

    Attributes:
        dataset: the model's data set.
        classes: names of the negative and the positive class.
        threshold: the probability from which a patch is called positive.
        input, output: input and output of the file, in words.
        other_sizes: what to do with patches of other sizes.
        format, quantize: the file's format and precision.
        made_by, made: the program that wrote it, and when.
        use: what the file may be used for.
    """

    dataset: str
    classes: list[str]
    threshold: float
    input: str
    output: str
    other_sizes: str
    format: str
    quantize: str
    made_by: str
    made: str
    use: str


class Difference(TypedDict):
    """The largest and the mean absolute difference of probabilities."""

    max: float
    mean: float


class Parity(TypedDict):
    """Comparison of a file's predictions with those of Keras, on the same test patches.

    Attributes:
        keras, file: the metrics of both.
        change: the file's metric less Keras', by name, with interval and p-value.
        decisions_changed: the share of patches whose decision changed, with its interval.
        probability_difference: the absolute difference of the probabilities.
        cases, patches: the numbers of cases and patches that were predicted.
    """

    keras: dict[str, float]
    file: dict[str, float]
    change: dict[str, Estimate]
    decisions_changed: Estimate
    probability_difference: Difference
    cases: int
    patches: int


class BatchLatency(TypedDict):
    """Median milliseconds per batch of Keras and of the file, the ratio Keras / file, and the number of rounds."""

    keras_ms: float
    file_ms: float
    ratio: float
    rounds: int


class Latency(TypedDict):
    """Latency of batches by their size, on a number of threads."""

    threads: int
    batches: dict[str, BatchLatency]


class MeasuredFile(TypedDict):
    """Measurements of an exported file.

    Attributes:
        facts: the file's description.
        sha256: digest of the file that is opened first.
        bytes: total size of all files that belong to it.
        files: their names.
        calibration_patches: the number of patches that calibrated the ranges of activations.
        cases_set_aside: the number of test cases left out because the model has seen them.
        parity: comparison of its predictions with those of Keras.
        latency: its latency and that of Keras.
        machine: the machine on which it was measured.
    """

    facts: FileFacts
    sha256: str
    bytes: int
    files: list[str]
    calibration_patches: int
    cases_set_aside: int
    parity: Parity
    latency: Latency
    machine: str


class ExportRecord(MeasuredFile):
    """The entry of one file in `export.json`; keys that earlier versions didn't write are optional.

    Attributes:
        format, quantize: the file's format and precision.
        seen: whether it is `known` which cases the model was trained on, or `unknown`.
    """

    format: str
    quantize: str
    seen: NotRequired[str]


class ExportResult(ExportRecord):
    """The result of an export: the file's entry with its path.

    Attributes:
        path: the file's path.
        logged: where MLflow has it, in words; empty if it wasn't logged.
    """

    path: Path
    logged: str
