"""What a model calls positive, and from which patches: the record that goes with every network that was evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import NotRequired, TypedDict

from histopipe.core.cases.readings import Reading
from histopipe.core.files import read_json, write_json

POINT_FILE = "operating_point.json"


class LockedPoint(TypedDict):
    """What validation alone chooses.

    Attributes:
        temperature: divides the network's log odds, > 0.
        offset: is added to them then.
        threshold: calibrated probability, 0 to 1, from which a patch is called positive.
        rule: by which the threshold was chosen, as `evaluate.threshold` is written.
    """

    temperature: float
    offset: float
    threshold: float
    rule: str


class GradedPoint(LockedPoint):
    """What a grading records.

    Attributes:
        positive_class: name of the class of label 1.
    """

    positive_class: str


class OperatingPoint(GradedPoint):
    """Content of `operating_point.json`: also what a served model must know of its patches.

    Attributes:
        negative_class: name of the class of label 0.
        data_set: that the model was trained on.
        patch_size: height and width in pixels.
        resized: whether patches of other sizes are resized to that; otherwise smaller ones are padded.
        case_reading: what counts as a case, in data sets that have a choice.
    """

    negative_class: str
    data_set: str
    patch_size: list[int]
    resized: bool
    case_reading: NotRequired[Reading]


def read_operating_point(folder: Path) -> OperatingPoint:
    """Read the operating point that an evaluation left in its folder.

    Raises:
        HistopipeError: the file is missing or damaged.
    """
    point: OperatingPoint = read_json(folder / POINT_FILE)
    return point


def write_operating_point(folder: Path, point: OperatingPoint) -> Path:
    """Write the operating point into a folder; returns the file."""
    path = folder / POINT_FILE
    write_json(path, point)
    return path
