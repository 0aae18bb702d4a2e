"""Predictions that take the patches around each one into account."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from histopipe.core.errors import EvaluationError
from histopipe.core.params import Params
from histopipe.evaluation.neighbourhood import POSITIONS, neighbourhood_logits, surroundings
from histopipe.reporting.comparison.evaluations import EvaluatedModel
from histopipe.reporting.comparison.neighbours import with_neighbours

ROW = {"architecture": "network", "positive_class": "IDC", "quick": None, "leaky": False}
CASES, SIDE = 12, 14  # slides of 14 x 14 patches


def slides(noise: float = 2.0, seed: int = 0, scattered: bool = False) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A network that errs patch by patch on slides whose tumours are discs; half of the cases are validation.

    With `scattered` the labels lie anywhere, and equally often on every slide, so that neighbours tell nothing. Each
    slide has an offset of its own.
    """
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE].reshape(2, -1)
    parts = []
    for case in range(CASES):
        centre, radius = random.uniform(2, SIDE - 2, 2), random.uniform(2, 5)
        label = (np.hypot(y - centre[0], x - centre[1]) < radius).astype(int)
        label = (random.random(len(label)) < 0.25).astype(int) if scattered else label
        places = {"x": 50 * x + random.integers(2000), "y": 50 * y + random.integers(2000)}
        split = "validation" if case % 2 else "test"
        parts.append(pd.DataFrame({"case_id": f"C{case:02}", "split": split, "label": label, **places}))
    table = pd.concat(parts, ignore_index=True).assign(width=50, height=50)
    table["file"] = [f"{number}.png" for number in table.index]
    table["probability"] = expit(2.0 * table["label"] - 1 + noise * random.normal(size=len(table)))
    columns = ["x", "y", "width", "height"]
    return table.drop(columns=columns), table[["file", "case_id", "label", *columns]]


def area(table: pd.DataFrame, column: str, split: str = "test") -> float:
    part = table[table["split"] == split]
    return roc_auc_score(part["label"], part[column])


def test_rings_by_hand() -> None:
    # a 3 x 3 square whose middle has all neighbours; the patch at (0, 0) is the corner
    places = np.array([(x, y) for y in range(3) for x in range(3)], float)
    found = surroundings(pd.Series(["A"] * 9), places, np.arange(9.0))
    assert found[4].tolist() == pytest.approx([(1 + 3 + 5 + 7) / 4, (0 + 2 + 6 + 8) / 4, 0, 0])
    assert found[0].tolist() == pytest.approx([(1 + 3) / 4, 4 / 4, (2 + 6 + 5 + 7 + 8) / 16, 0])


def test_a_whole_neighbourhood_has_as_many_positions_as_are_reckoned_with() -> None:
    places = np.array([(x, y) for y in range(13) for x in range(13)], float)
    middle = surroundings(pd.Series(["A"] * 169), places, np.ones(169))[84]
    assert middle.tolist() == [1.0] * len(POSITIONS)
    fewer = surroundings(pd.Series(["A"] * 168), places[:-1], np.ones(168))[84]
    assert fewer.tolist() == [1.0] * len(POSITIONS), "the far corner is beyond six sides"


def test_only_patches_of_the_same_case_with_a_place_are_neighbours() -> None:
    places = np.array([(0, 0), (1, 0), (0, 1), (np.nan, 0)])
    found = surroundings(pd.Series(["A", "A", "B", "A"]), places, np.array([1.0, 2, 4, 8]))
    assert found[:, 0].tolist() == [2 / 4, 1 / 4, 0, 0]


def test_where_the_truth_is_smooth_neighbours_outvote_a_networks_noise() -> None:
    predictions, index = slides()
    found = neighbourhood_logits(predictions, index)
    assert area(found, "logit") > area(predictions, "probability") + 0.08
    assert area(found, "logit", "validation") > area(predictions, "probability", "validation") + 0.08


def test_where_neighbours_tell_nothing_nothing_is_lost_and_nothing_feigned() -> None:
    predictions, index = slides(scattered=True)
    found = neighbourhood_logits(predictions, index)
    for split in ("test", "validation"):
        assert area(found, "logit", split) == pytest.approx(area(predictions, "probability", split), abs=0.02)


def test_no_label_of_test_and_no_label_of_its_own_case_moves_a_patch() -> None:
    predictions, index = slides()
    found = neighbourhood_logits(predictions, index)
    flipped = predictions.assign(
        label=np.where(predictions["split"] == "test", 1 - predictions["label"], predictions["label"])
    )
    np.testing.assert_array_equal(neighbourhood_logits(flipped, index)["logit"], found["logit"])
    own = (predictions["case_id"] == "C01").to_numpy()
    flipped = predictions.assign(label=np.where(own, 1 - predictions["label"], predictions["label"]))
    again = neighbourhood_logits(flipped, index)
    np.testing.assert_allclose(again["logit"][own], found["logit"][own])
    assert not np.allclose(again["logit"][~own], found["logit"][~own])


def test_the_order_of_patches_does_not_matter() -> None:
    predictions, index = slides()
    mixed = predictions.sample(frac=1, random_state=0)
    found, again = (neighbourhood_logits(table, index).set_index("file")["logit"] for table in (predictions, mixed))
    np.testing.assert_allclose(again[found.index], found, rtol=1e-6, atol=1e-6)


def test_a_sparse_sample_leans_on_what_little_lies_around() -> None:
    predictions, index = slides()
    kept = np.random.default_rng(1).random(len(predictions)) < 0.3
    sample = predictions[kept].reset_index(drop=True)
    assert area(neighbourhood_logits(sample, index), "logit") > area(sample, "probability") + 0.02


def test_a_network_gets_a_row_with_its_neighbours_graded_like_any_other(params: Params) -> None:
    predictions, index = slides()
    (found,), absent = with_neighbours([EvaluatedModel(ROW, predictions)], index, params)
    assert absent == []
    assert found.row["architecture"] == "network + neighbours"
    assert found.row["members"] == ["network"]
    assert found.row["test"]["roc_auc"]["value"] == pytest.approx(area(found.predictions, "probability"))
    assert found.row["test"]["calibration_error"]["value"] < 0.1
    assert found.row["cases"] == CASES // 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda index: index.drop(columns=["x", "y"]), "the patches have no coordinates"),
        (lambda index: index.assign(x=pd.NA, y=pd.NA).astype({"x": "Int32", "y": "Int32"}), "have no coordinates"),
        (
            lambda index: index.assign(y=np.arange(len(index)) * 900),
            "no validation patch has another one within 6 sides",
        ),
    ],
)
def test_without_neighbours_the_row_is_absent_and_says_why(
    params: Params, change: Callable[[pd.DataFrame], pd.DataFrame], reason: str
) -> None:
    predictions, index = slides()
    found, (absent,) = with_neighbours([EvaluatedModel(ROW, predictions)], change(index), params)
    assert found == []
    assert (absent["architecture"], absent["state"]) == ("network + neighbours", "not made")
    assert reason in absent["reason"]


def test_patches_without_coordinates_among_others_are_judged_by_themselves() -> None:
    predictions, index = slides()
    nowhere = index["case_id"].isin(["C00", "C01"])
    partly = index.assign(x=index["x"].where(~nowhere), y=index["y"].where(~nowhere))
    found = neighbourhood_logits(predictions, partly)
    assert np.isfinite(found["logit"]).all()
    alone = (predictions["case_id"] == "C00").to_numpy()
    order = np.argsort(predictions["probability"][alone].to_numpy())
    assert (np.diff(found["logit"][alone].to_numpy()[order]) >= 0).all()


def test_one_case_of_a_class_is_too_few_to_be_fitted_on() -> None:
    predictions, index = slides()
    only = (predictions["split"] == "test") | (predictions["case_id"] == "C01")
    with pytest.raises(EvaluationError, match="two cases with patches of each class"):
        neighbourhood_logits(predictions.assign(label=predictions["label"].where(only, 0)), index)
