"""What an export tells of its file: what it is, how it answers beside Keras, and how long it takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict

if TYPE_CHECKING:
    from histopipe.evaluation.intervals import Measured


class ModelFacts(TypedDict, total=False):
    """What a file says of its model; what isn't known is left out.

    Attributes:
        model: name of the registered model, else what the model was asked for as.
        version: of the registered model.
        architecture: the recipe's name.
        run_id: of the run that logged the model.
        git_commit: of the code that trained it.
    """

    model: str
    version: str
    architecture: str
    run_id: str
    git_commit: str


class Facts(ModelFacts):
    """What stands inside and beside a file.

    Attributes:
        dataset: the model's data set.
        classes: names of the negative and of the positive class.
        threshold: probability from which a patch is called positive.
        input, output: what the file takes and gives, in words.
        other_sizes: what to do with patches of other sizes.
        format, quantize: of the file.
        made_by, made: the program, and when.
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
    """The largest and the mean absolute difference between probabilities."""

    max: float
    mean: float


class Parity(TypedDict):
    """What a file answers beside what Keras answers, on the same test patches.

    Attributes:
        keras, file: metrics of both.
        change: the file's less Keras', by metric, with interval and p.
        decisions_changed: share of the patches, with its interval.
        probability_difference: between the two.
        cases, patches: that were graded.
    """

    keras: dict[str, float]
    file: dict[str, float]
    change: dict[str, Measured]
    decisions_changed: Measured
    probability_difference: Difference
    cases: int
    patches: int


class BatchLatency(TypedDict):
    """Median milliseconds that a batch takes, the ratio Keras / file, and how often each was measured."""

    keras_ms: float
    file_ms: float
    ratio: float
    rounds: int


class Latency(TypedDict):
    """How long batches take, by their size, on so many threads."""

    threads: int
    batches: dict[str, BatchLatency]


class MeasuredFile(TypedDict):
    """What was measured of a file.

    Attributes:
        facts: what the file says of itself.
        sha256: of the file that is opened first.
        bytes: of all files that belong to it.
        files: their names.
        calibration_patches: that showed the ranges of activations.
        cases_set_aside: test cases that the model has seen.
        parity: how the file answers.
        latency: how long it takes.
        machine: that this was measured on.
    """

    facts: Facts
    sha256: str
    bytes: int
    files: list[str]
    calibration_patches: int
    cases_set_aside: int
    parity: Parity
    latency: Latency
    machine: str


class ExportRecord(MeasuredFile):
    """One file's part of `export.json`; what earlier versions didn't write isn't required.

    Attributes:
        format, quantize: of the file.
        seen: whether it is `known` which cases the model was trained on, or `unknown`.
    """

    format: str
    quantize: str
    seen: NotRequired[str]


class Exported(ExportRecord):
    """What an export comes back with.

    Attributes:
        path: of the file.
        logged: where MLflow has it, in words; empty where it wasn't asked to.
    """

    path: Path
    logged: str
