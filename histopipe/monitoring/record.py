"""The record of a check for drift: `drift.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypedDict

from histopipe.core.errors import MonitoringError
from histopipe.core.files import read_record

DRIFT = "drift.json"

Verdict = Literal["none", "drift", "undecided"]


class DriftFeature(TypedDict):
    """The result for one feature.

    Attributes:
        feature: name of the feature.
        distance: Wasserstein distance, in standard deviations of the reference's patches.
        chance: adjusted p-value.
        drifted: whether the distance is above its limit and the p-value is not.
        reference_cases: number of reference cases.
        reference, new: medians.
    """

    feature: str
    distance: float
    chance: float
    drifted: bool
    reference_cases: int
    reference: float
    new: float


class DriftSummary(TypedDict):
    """The content of `drift.json`.

    Attributes:
        verdict: the verdict on all features together.
        `said`: the verdict as a line of text.
        data_set: the model's data set.
        model: the model that predicted the new patches.
        model_id: its id in MLflow; None if it isn't in MLflow.
        limits: the block `monitor` of `params.yaml`.
        cases, patches: number of new cases that were compared, and of their patches.
        cases_of_too_few_patches: number of new cases that weren't.
        cases_known_to_the_reference: number of new cases that were removed from the reference.
        set_aside: number of images that couldn't be predicted.
        features: the results of all features.
    """

    verdict: Verdict
    said: str
    data_set: str
    model: str
    model_id: str | None
    limits: dict[str, float]
    cases: int
    patches: int
    cases_of_too_few_patches: int
    cases_known_to_the_reference: int
    set_aside: int
    features: list[DriftFeature]


def read_drift(folder: Path) -> DriftSummary:
    """Read the result of `histopipe monitor` from its folder.

    Raises:
        HistopipeError: the file is missing or damaged.
    """
    remedy = "run `histopipe monitor` again"
    summary: DriftSummary = read_record(folder / DRIFT, "drift report", MonitoringError, remedy)
    return summary
