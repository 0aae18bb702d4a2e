"""The record of an operating point (`operating_point.json`): calibration, threshold and the patches they apply to."""

from __future__ import annotations

from pathlib import Path
from typing import NotRequired, TypedDict

from histopipe.core.cases.readings import Reading
from histopipe.core.files import read_json, write_json

POINT_FILE = "operating_point.json"


class ChosenPoint(TypedDict):
    """Calibration and threshold, which validation alone chooses.

    Attributes:
        temperature: the divisor of the network's log odds, > 0.
        offset: the number that is added to the quotient.
        threshold: the calibrated probability, 0 to 1, from which a patch is called positive.
        rule: the rule that chose the threshold, in the form of `evaluate.threshold`.
    """

    temperature: float
    offset: float
    threshold: float
    rule: str


class EvaluatedPoint(ChosenPoint):
    """Calibration and threshold with the class that they are about, as an evaluation records them.

    Attributes:
        positive_class: the name of the class of label 1.
    """

    positive_class: str


class OperatingPoint(EvaluatedPoint):
    """The content of `operating_point.json`, with the properties of patches that a served model must know.

    Attributes:
        negative_class: the name of the class of label 0.
        data_set: the data set that the model was trained on.
        patch_size: height and width of a patch, in pixels.
        resized: whether patches of other sizes are resized to `patch_size`; otherwise smaller ones are padded.
        case_reading: the reading of case ids, in data sets that have a choice.
    """

    negative_class: str
    data_set: str
    patch_size: list[int]
    resized: bool
    case_reading: NotRequired[Reading]


def read_operating_point(folder: Path) -> OperatingPoint:
    """Read the operating point that an evaluation wrote into its folder.

    Raises:
        HistopipeError: the file is missing or damaged.
    """
    point: OperatingPoint = read_json(folder / POINT_FILE)
    return point


def write_operating_point(folder: Path, point: OperatingPoint) -> Path:
    """Write the operating point into a folder; return the file's path."""
    path = folder / POINT_FILE
    write_json(path, point)
    return path
