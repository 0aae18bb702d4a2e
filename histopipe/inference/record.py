"""The record of a prediction: the content of `summary.json` and the rows of `slides.csv`."""

from __future__ import annotations

from pathlib import Path
from typing import NotRequired, TypedDict

from histopipe.core.cases.readings import Reading
from histopipe.core.errors import PredictionError
from histopipe.core.files import read_record

SUMMARY = "summary.json"


class RefusedImages(TypedDict):
    """Images that were set aside for one reason: their number, and the names of some."""

    count: int
    files: list[str]


class SlidesPart(TypedDict, total=False):
    """Fields of a summary about whole slides; absent if there were none.

    Attributes:
        slides: the number of slides.
        patch_mpp: the resolution of their tiles, in micrometres per pixel.
        overlays: the kinds of overlays written for each slide.
    """

    slides: int
    patch_mpp: float | None
    overlays: list[str]


class PatchesPart(TypedDict):
    """The part of a summary about all patches, including tiles of slides.

    Attributes:
        model: the model's address; a path is left out of outputs with pseudonyms.
        model_id: the model's id in MLflow; None if MLflow doesn't have it.
        data_set: the model's data set.
        data: the relation of the model's data to that of the checkout: `verdict` and `reason`.
        positive_class: the name of the class with label 1.
        threshold: the probability from which a patch is called positive.
        case_reading: what counts as a case, in data sets that offer a choice.
        precision: the arithmetic's precision.
        pseudonymised: whether cases and files have pseudonyms.
        patches, cases: the numbers of predicted patches and of their cases.
        positive: the number of patches called positive.
        maps: the number of maps drawn.
        notes: the number of texts and tables next to the images.
        set_aside: images that couldn't be predicted, by reason.
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


class PredictionSummary(PatchesPart, SlidesPart):
    """Content of `summary.json`.

    Attributes:
        naming: the number of images whose case was recognised in each way.
    """

    naming: NotRequired[dict[str, int]]


class SlideRow(TypedDict):
    """A row of `slides.csv`.

    Attributes:
        case_id, file: the slide's case id and file.
        width, height: the slide's size at level 0, in pixels.
        mpp_x, mpp_y: micrometres per pixel of level 0.
        mpp_from: the source of `mpp_x` and `mpp_y`.
        tissue_mm2: the area of the tissue, in square millimetres.
        tiles: the number of predicted tiles.
        positive: the number of tiles called positive.
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


def read_summary(folder: Path) -> PredictionSummary:
    """Read the summary that `histopipe predict` left in a folder.

    Raises:
        HistopipeError: the file is missing or damaged.
    """
    remedy = "predict the patches again"
    summary: PredictionSummary = read_record(folder / SUMMARY, "summary", PredictionError, remedy)
    return summary
