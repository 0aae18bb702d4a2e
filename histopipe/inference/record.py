"""What a grading of new patches tells: the content of `summary.json` and the rows of `slides.csv`."""

from __future__ import annotations

from pathlib import Path
from typing import NotRequired, TypedDict

from histopipe.core.cases.readings import Reading
from histopipe.core.errors import ScoringError
from histopipe.core.files import read_json

SUMMARY = "summary.json"


class RefusedImages(TypedDict):
    """Images that couldn't be graded for one reason: how many, and the names of some."""

    count: int
    files: list[str]


class SlidesPart(TypedDict, total=False):
    """What a summary tells of whole slides, where some were graded.

    Attributes:
        slides: how many.
        patch_mpp: micrometres to a pixel that they were cut up at.
        overlays: that were written of each.
    """

    slides: int
    patch_mpp: float | None
    overlays: list[str]


class PatchesPart(TypedDict):
    """What a summary tells of all patches, tiles of slides among them.

    Attributes:
        model: that graded, as it may be shown.
        model_id: under which MLflow has it; None of one that MLflow doesn't have.
        data_set: the model's.
        data: how the model's data and those of the checkout are related: `verdict` and `reason`.
        positive_class: name of the class of label 1.
        threshold: probability from which a patch is called positive.
        case_reading: what counts as a case, in data sets that have a choice.
        precision: of the arithmetic.
        pseudonymised: whether cases and files go by other names.
        patches, cases: that were graded.
        positive: patches that were called positive.
        maps: that were drawn.
        notes: texts and tables beside the images.
        set_aside: what couldn't be graded, by reason.
    """

    model: str
    model_id: str | None
    data_set: str
    data: dict[str, str] | None
    positive_class: str
    threshold: float
    case_reading: NotRequired[Reading]
    precision: str
    pseudonymised: bool
    patches: int
    cases: int
    positive: int
    maps: int
    notes: int
    set_aside: dict[str, RefusedImages]


class ScoreSummary(PatchesPart, SlidesPart):
    """Content of `summary.json`.

    Attributes:
        naming: how many images were told their case in each way.
    """

    naming: NotRequired[dict[str, int]]


class SlideRow(TypedDict):
    """A row of `slides.csv`.

    Attributes:
        case_id, file: of the slide.
        width, height: of the slide at level 0, in pixels.
        mpp_x, mpp_y: micrometres to a pixel of level 0, and `mpp_from` who says so.
        tissue_mm2: area of the tissue, in square millimetres.
        tiles: that were graded.
        positive: tiles that were called positive.
    """

    case_id: str
    file: str
    width: int
    height: int
    mpp_x: float
    mpp_y: float
    mpp_from: str
    tissue_mm2: float
    tiles: int
    positive: int


def read_summary(folder: Path) -> ScoreSummary:
    """Read the summary that `histopipe predict` left in a folder.

    Raises:
        HistopipeError: the file is missing or damaged.
    """
    summary: ScoreSummary = read_json(folder / SUMMARY)
    if not isinstance(summary, dict):
        raise ScoringError(f"{folder / SUMMARY} holds no summary: grade the patches again")
    return summary
