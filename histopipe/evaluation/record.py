"""What an evaluation tells of a model: `metrics.json`, which comparisons, promotions and studies go by."""

from __future__ import annotations

from pathlib import Path
from typing import NotRequired, TypedDict

from histopipe.core.errors import EvaluationError
from histopipe.core.files import read_json, restoring
from histopipe.core.training_record import TrainingMarks
from histopipe.evaluation.intervals import Estimate

METRICS_FILE = "metrics.json"


class KindRecord(TypedDict):
    """What was measured within the test cases of one kind, see `histopipe.evaluation.case_kinds`.

    Attributes:
        cases, patches: of that kind.
        positives: patches of the positive class.
        test: every metric with its interval; None where that would be undefined or repeat others.
        reason: why there is none.
    """

    cases: int
    patches: int
    positives: int
    test: dict[str, Estimate] | None
    reason: str | None


class EvaluationMarks(TrainingMarks):
    """What a row that is made of other rows takes over from them.

    Attributes:
        positive_class: name of the class of label 1.
    """

    positive_class: str


class MetricsRecord(EvaluationMarks):
    """Content of `metrics.json`, and what is graded alike; what earlier versions didn't write isn't required.

    Attributes:
        test: every metric with its interval, on the test split.
        cautions: why these intervals may be too narrow.
        uncalibrated: metrics of the probabilities before calibration.
        within: metrics within the test cases of one kind.
        validation: every metric on the validation split; None where it isn't defined.
        threshold: calibrated probability from which a patch is called positive.
        temperature, offset: of the calibration.
        rule: by which the threshold was chosen.
        cases, patches: of the test split.
        validation_cases, validation_patches: of the validation split.
        run_id: of the MLflow run that holds the evaluation; rows of a comparison that no evaluation made have none.
        members: recipes that such a row is made of.
        descriptive: whether it is no recipe, so that it has no rank.
    """

    test: dict[str, Estimate]
    cautions: NotRequired[list[str]]
    uncalibrated: NotRequired[dict[str, Estimate]]
    within: NotRequired[dict[str, KindRecord]]
    validation: dict[str, float | None]
    threshold: float
    temperature: float
    offset: float
    rule: str
    cases: int
    patches: int
    validation_cases: int
    validation_patches: int
    run_id: NotRequired[str]
    members: NotRequired[list[str]]
    descriptive: NotRequired[bool]


def read_metrics(folder: Path) -> MetricsRecord:
    """Read the metrics that an evaluation left in its folder.

    Raises:
        HistopipeError: the file is missing or damaged.
    """
    path = folder / METRICS_FILE
    metrics: MetricsRecord = read_json(path)
    if not isinstance(metrics, dict):
        raise EvaluationError(f"{path} holds no metrics: {restoring(path)}")
    return metrics
