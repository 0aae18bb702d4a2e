"""Names in pictures stand there letter by letter, whatever Matplotlib would make of them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from histopipe.evaluation.cases import case_table
from histopipe.evaluation.curves import calibration_table, precision_recall_table, roc_table
from histopipe.evaluation.explanation.figures import draw_gallery
from histopipe.evaluation.explanation.gallery import choose_gallery
from histopipe.evaluation.figures import (
    Evaluation,
    draw_calibration,
    draw_case_accuracy,
    draw_confusion,
    draw_precision_recall,
    draw_roc,
    draw_subgroups,
    escape_mathtext,
)
from histopipe.evaluation.metrics import METRICS, Predictions
from histopipe.evaluation.slide_figures import draw_slide
from histopipe.evaluation.slide_maps import lay_out_patches
from histopipe.reporting.comparison.figure import draw_comparison
from histopipe.reporting.comparison.table import COLUMNS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = ["A$^$B", r"$\x$", "P$1$", "a$b", r"\$c\$", r"d\$"]
MEASURED: Any = {"value": 0.7, "low": 0.6, "high": 0.8}


def shown(figure: Figure) -> str:
    """All text of a figure as it is seen; drawing it would fail on what Matplotlib takes for a bad formula."""
    from matplotlib.cbook import is_math_text
    from matplotlib.text import Text

    figure.savefig(io.BytesIO(), dpi=20)
    texts = [text.get_text() for text in figure.findobj(Text)]  # type: ignore[call-arg]
    assert not [text for text in texts if is_math_text(text)]
    return "\n".join(text.replace(r"\$", "$") for text in texts)


def evaluation(classes: tuple[str, str], cases: list[str]) -> tuple[Evaluation, pd.Series]:
    case_ids = pd.Series(np.repeat(cases, 4))
    labels = np.tile([0, 1], 2 * len(cases))
    predictions = Predictions.from_arrays(labels, np.where(labels == 1, 0.8, 0.3), labels, case_ids)
    metrics = dict.fromkeys([*METRICS, "uncalibrated"], MEASURED)
    return Evaluation("idc", "resnet", classes, predictions, metrics, 0.5), case_ids


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_figures_of_an_evaluation_show_names_letter_by_letter(name: str) -> None:
    graded, case_ids = evaluation((name, f"{name} too"), [name, "other"])
    bins = calibration_table(graded.predictions)
    for figure in (
        draw_roc(graded, roc_table(graded.predictions)),
        draw_precision_recall(graded, precision_recall_table(graded.predictions)),
        draw_confusion(graded),
        draw_calibration(graded, bins, bins),
    ):
        assert f"{name} too" in shown(figure)
    assert f" {name}\n" in shown(draw_case_accuracy(graded, case_table(graded.predictions, case_ids))) + "\n"
    area = {f"roc_auc{end}": [0.7] for end in ("", "_low", "_high")}
    subgroups = pd.DataFrame({"group": ["stain"], "level": [name], "cases": [2], "patches": [8], **area})
    assert f"stain: {name}\n2 cases" in shown(draw_subgroups(graded, subgroups))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_slides_galleries_and_comparisons_show_names_letter_by_letter(name: str) -> None:
    classes = (name, f"{name} too")
    part = pd.DataFrame({"x": [0, 900], "y": [0, 500], "width": 50, "height": 50, "label": [0, 1], "decision": [0, 1]})
    part = part.assign(probability=[0.2, 0.9], case_id=name, file=["a.png", "b.png"])
    canvas = lay_out_patches(part)
    slide = shown(draw_slide(name, part, np.zeros((*canvas.shape, 3), np.uint8), canvas, classes))
    assert f"case {name}: 2 patches" in slide and f"probability of {name} too" in slide
    point = {"negative_class": name, "positive_class": f"{name} too", "threshold": 0.5}
    patches = np.zeros((2, 8, 8, 3), np.uint8)
    gallery = draw_gallery(choose_gallery(part, 0.5), patches, np.ones((2, 8, 8), np.float32), point, f"of {name}")
    found = shown(gallery)
    assert f"case {name}" in found and f"speaks for {name} too" in found and f"of {name}\n" in found + "\n"
    row = {"architecture": "resnet", "cases": 9, "patches": 90, "test": dict.fromkeys(COLUMNS, MEASURED)}
    content = {"dataset": "idc", "positive_class": name, "ranking": [row]}
    assert f"positive class {name}" in shown(draw_comparison(content))


def test_other_texts_stay_as_they_are() -> None:
    assert escape_mathtext("95 % of 3 cases, P(IDC) {0.5} ^ _") == "95 % of 3 cases, P(IDC) {0.5} ^ _"
