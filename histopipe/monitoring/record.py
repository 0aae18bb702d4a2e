"""What a look at drift tells: the content of `drift.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypedDict

from histopipe.core.errors import MonitoringError
from histopipe.core.files import read_json

DRIFT = "drift.json"

Verdict = Literal["none", "drift", "undecided"]


class DriftFeature(TypedDict):
    """How far one feature has moved.

    Attributes:
        feature: its name.
        distance: Wasserstein, in standard deviations of the reference's patches.
        chance: adjusted p-value.
        drifted: whether both limits are passed.
        reference_cases: that it was compared with.
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
    """Content of `drift.json`.

    Attributes:
        verdict: of all features together.
        said: the same in one line.
        data_set: the model's.
        model: that graded the new patches.
        model_id: under which MLflow has it; None of one that MLflow doesn't have.
        limits: the block `monitor` of `params.yaml`.
        cases, patches: that were judged.
        cases_of_too_few_patches: that weren't.
        cases_known_to_the_reference: which was used without them.
        set_aside: images that couldn't be graded.
        features: one by one.
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
    """Read what `histopipe monitor` left in a folder.

    Raises:
        HistopipeError: the file is missing or damaged.
    """
    summary: DriftSummary = read_json(folder / DRIFT)
    if not isinstance(summary, dict):
        raise MonitoringError(f"{folder / DRIFT} holds no report of drift: look again")
    return summary
