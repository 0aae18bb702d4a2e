"""What is known of a model's maps: `explanation.json`."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict, final

from histopipe.core.errors import EvaluationError
from histopipe.core.files import read_json, restoring
from histopipe.evaluation.intervals import Estimate

EXPLANATION_FILE = "explanation.json"


class ReferenceGain(TypedDict):
    """How far maps are ahead of other maps.

    Attributes:
        gain: in the mean area under the removal curves.
        verdict: what that and its interval tell.
    """

    gain: Estimate
    verdict: str


class Curves(TypedDict):
    """Mean removal curves, by the map that says what goes first.

    Attributes:
        shares: of the pixels that are gone, or there, at each point.
        deletion, insertion: mean probability of the class called at each point, by map.
    """

    shares: list[float]
    deletion: dict[str, list[float]]
    insertion: dict[str, list[float]]


class MapsCheck(TypedDict):
    """What maps are worth, as `histopipe.evaluation.explanation.check.check_maps` finds it.

    Attributes:
        patches, cases: that were looked at.
        deletion, insertion: area under the curve by map, and the map's `gain` on chance.
        gain: the mean of both gains.
        references: how far the maps are ahead of others.
        verdict: on chance and each reference.
        curves: that the areas are under.
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
class Explained(MapsCheck):
    """Content of `explanation.json`.

    Attributes:
        method: by which maps are made.
        layer: of the network that they are read from.
        places: height and width of what that layer gives.
    """

    method: str
    layer: str
    places: list[int]


@final
class Unexplained(TypedDict):
    """Content of `explanation.json` for a network without maps.

    Attributes:
        method: by which maps would be made.
        verdict: says that there are none.
        reason: why.
    """

    method: str
    verdict: str
    reason: str


Explanation = Explained | Unexplained


def read_explanation(folder: Path) -> Explanation:
    """Read what an evaluation left in its folder on its model's maps.

    Raises:
        HistopipeError: the file is missing or damaged.
    """
    path = folder / EXPLANATION_FILE
    content: Explanation = read_json(path)
    if not isinstance(content, dict):
        raise EvaluationError(f"{path} holds no explanation: {restoring(path)}")
    return content
