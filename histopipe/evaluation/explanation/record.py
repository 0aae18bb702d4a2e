"""The record of a model's maps: `explanation.json`."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict, final

from histopipe.core.errors import EvaluationError
from histopipe.core.files import read_record
from histopipe.evaluation.intervals import Estimate

EXPLANATION_FILE = "explanation.json"


class ReferenceGain(TypedDict):
    """The gain of maps on other maps.

    Attributes:
        gain: gain in the mean area under the removal curves.
        verdict: the verdict that follows from its interval.
    """

    gain: Estimate
    verdict: str


class Curves(TypedDict):
    """Mean removal curves, by the map that decides the order of removal.

    Attributes:
        shares: shares of pixels that are removed, or shown, at each point.
        deletion, insertion: mean probability of the class called at each point, by map.
    """

    shares: list[float]
    deletion: dict[str, list[float]]
    insertion: dict[str, list[float]]


class MapsCheck(TypedDict):
    """The result of `histopipe.evaluation.explanation.check.check_maps`.

    Attributes:
        patches, cases: number of patches checked, and of their cases.
        deletion, insertion: area under the curve by map, and the map's `gain` on chance.
        gain: the mean of both gains.
        references: the gain on each reference.
        verdict: the verdicts on chance and on each reference.
        curves: the mean curves.
    """

    patches: int
    cases: int
    deletion: dict[str, Estimate]
    insertion: dict[str, Estimate]
    gain: Estimate
    references: dict[str, ReferenceGain]
    verdict: str
    curves: Curves


@final
class ExplanationRecord(MapsCheck):
    """The content of `explanation.json`.

    Attributes:
        method: the method that computes maps.
        layer: name of the layer whose maps are used.
        places: height and width of that layer's maps, before they are enlarged.
    """

    method: str
    layer: str
    places: list[int]


@final
class MissingExplanation(TypedDict):
    """The content of `explanation.json` for a network without maps.

    Attributes:
        method: the method that would have computed maps.
        verdict: states that there are none.
        reason: the reason.
    """

    method: str
    verdict: str
    reason: str


Explanation = ExplanationRecord | MissingExplanation


def read_explanation(folder: Path) -> Explanation:
    """Read the explanation from an evaluation's folder.

    Raises:
        HistopipeError: the file is missing or damaged.
    """
    explanation: Explanation = read_record(folder / EXPLANATION_FILE, "explanation", EvaluationError)
    return explanation
