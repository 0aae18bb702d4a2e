"""The record of an evaluation: `metrics.json`, which comparisons, promotions and studies read."""

from __future__ import annotations

from pathlib import Path
from typing import NotRequired, TypedDict

from histopipe.core.errors import EvaluationError
from histopipe.core.files import read_record
from histopipe.core.training_record import CopiedTrainingFields
from histopipe.evaluation.intervals import Estimate

METRICS_FILE = "metrics.json"
SERVED_MODEL_TAG = "served_model"  # of a run: id of the newest logged model; a repeated evaluation logs another one


class KindRecord(TypedDict):
    """The metrics within the test cases of one kind, see `histopipe.evaluation.case_kinds`.

    Attributes:
        cases, patches: number of cases of that kind, and of their patches.
        positives: number of patches of the positive class.
        test: every metric with its interval; None if the metrics would be undefined or repeat others.
        reason: why `test` is None.
    """

    cases: int
    patches: int
    positives: int
    test: dict[str, Estimate] | None
    reason: str | None


class SharedRowFields(CopiedTrainingFields):
    """Fields that rows of a comparison without a training of their own (combination, baseline) take from others.

    Attributes:
        positive_class: name of the class of label 1.
    """

    positive_class: str


class MetricsRecord(SharedRowFields):
    """The content of `metrics.json`, and of similar rows of a comparison; keys that are newer are not required.

    Attributes:
        test: every metric with its interval, on the test split.
        cautions: reasons why these intervals may be too narrow.
        uncalibrated: metrics of the probabilities before calibration.
        within: metrics within the test cases that hold positives, and within those that hold both classes.
        validation: every metric on the validation split; None if it isn't defined.
        threshold: calibrated probability from which a patch is called positive.
        temperature, offset: parameters of the calibration.
        rule: rule by which the threshold was chosen, as in `evaluate.threshold`, such as `sensitivity>=0.95`.
        cases, patches: size of the test split.
        validation_cases, validation_patches: size of the validation split.
        run_id: id of the MLflow run with the evaluation; a comparison's row without an evaluation of its own has none.
        members: recipes that such a row combines.
        descriptive: whether the row isn't a recipe, and therefore has no rank.
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
    """Read the metrics from an evaluation's folder.

    Raises:
        HistopipeError: the file is missing or damaged.

    Example:
        >>> metrics = read_metrics(Path("evaluations/idc/cancernet"))
        >>> metrics["test"]["roc_auc"]["value"], metrics["cases"]
        (0.91, 42)
    """
    metrics: MetricsRecord = read_record(folder / METRICS_FILE, "metrics", EvaluationError)
    return metrics
