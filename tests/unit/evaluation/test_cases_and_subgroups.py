"""The test split by case and by subgroup."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from histopipe.evaluation.cases import case_table, colour_clusters
from histopipe.evaluation.metrics import Predictions
from histopipe.evaluation.subgroups import patch_groups, subgroup_table
from tests.builders.predictions import slides

CHANNELS = ("red", "green", "blue")


def test_cases_by_hand() -> None:
    case_ids = pd.Series(["B", "B", "B", "A", "A", "C"])
    predictions = Predictions.from_arrays(
        [1, 0, 0, 1, 1, 0], [0.9, 0.8, 0.1, 0.7, 0.2, 0.3], [1, 1, 0, 1, 0, 0], case_ids
    )
    table = case_table(predictions, case_ids).set_index("case_id")
    assert list(table.index) == ["A", "B", "C"]  # accuracies 1/2, 2/3 and 1
    assert table["accuracy"].tolist() == pytest.approx([1 / 2, 2 / 3, 1])
    assert table.loc["B", ["patches", "positives", "called"]].tolist() == [3, 1, 2]
    assert table.loc["B", "mean_probability"] == pytest.approx(0.6)
    assert table.loc["B", ["roc_auc", "sensitivity", "specificity"]].tolist() == pytest.approx([1, 1, 1 / 2])
    assert table.loc["A", ["roc_auc", "specificity"]].isna().all()  # no negative patch
    assert table.loc["A", "sensitivity"] == 0.5


def test_cases_together_are_the_whole() -> None:
    predictions = slides(cases=9, seed=2)
    table = case_table(predictions, pd.Series(predictions.cases.astype(str)))
    assert (table["accuracy"] * table["patches"]).sum() / table["patches"].sum() == pytest.approx(
        (predictions.labels == predictions.decisions).mean()
    )
    assert (table["accuracy"].diff().dropna() >= 0).all()


def test_the_area_of_a_case_is_that_of_its_patches_alone() -> None:
    predictions = slides(cases=6, seed=8, patches=40)
    rounded = np.round(predictions.probabilities, 1)  # ties
    graded = Predictions(predictions.labels, rounded, predictions.decisions, predictions.cases, 6)
    table = case_table(graded, pd.Series(predictions.cases.astype(str))).set_index("case_id")
    for case in range(6):
        own = predictions.cases == case
        assert table.loc[str(case), "roc_auc"] == pytest.approx(roc_auc_score(predictions.labels[own], rounded[own]))


def coloured(levels: list[float], patches: int = 4) -> pd.DataFrame:
    """An index whose case `n` has about the brightness `levels[n]`."""
    random = np.random.default_rng(0)
    index = pd.DataFrame({"case_id": np.repeat([f"C{number}" for number in range(len(levels))], patches)})
    for channel in CHANNELS:
        index[f"{channel}_mean"] = np.repeat(levels, patches) + random.normal(size=len(index))
        index[f"{channel}_std"] = 10.0
    return index


def test_stains_are_told_apart_by_case() -> None:
    levels = [100.0, 102, 150, 152, 200, 202]
    clusters = colour_clusters(coloured(levels), np.arange(24), 3, seed=1)
    assert clusters is not None
    assert clusters.iloc[::4].tolist() == ["1 of 3", "1 of 3", "2 of 3", "2 of 3", "3 of 3", "3 of 3"]


def test_clusters_are_fitted_to_the_reference_alone() -> None:
    index = coloured([100.0, 150, 200, 201, 900])
    clusters = colour_clusters(index, np.arange(12), 3, seed=1)  # of the first three cases
    assert clusters is not None
    assert clusters.iloc[::4].tolist() == ["1 of 3", "2 of 3", "3 of 3", "3 of 3", "3 of 3"]


def test_too_few_cases_or_no_colours_give_no_clusters() -> None:
    assert colour_clusters(coloured([100.0, 150]), np.arange(8), 3, 1) is None
    assert colour_clusters(coloured([100.0, 150, 200]).drop(columns="red_mean"), np.arange(12), 3, 1) is None


def test_subgroups_are_graded_like_the_whole() -> None:
    predictions = slides(cases=12, seed=5)
    names = {"labels": "label", "probabilities": "probability", "decisions": "decision"}
    table = pd.DataFrame({name: getattr(predictions, field) for field, name in names.items()})
    table["case_id"] = predictions.cases.astype(str)
    groups = {"half": table["case_id"].astype(int).map(lambda case: "early" if case < 6 else "late")}
    groups["one level"] = pd.Series("same", table.index)
    found = subgroup_table(table, groups, resamples=200, seed=1)
    assert found["level"].tolist() == ["early", "late"]
    assert found["cases"].tolist() == [6, 6]
    assert found["patches"].sum() == len(table)
    assert (found["roc_auc_low"] < found["roc_auc"]).all() and (found["roc_auc"] < found["roc_auc_high"]).all()


def test_a_subgroup_of_one_class_has_no_area() -> None:
    table = pd.DataFrame(
        {"label": [1, 1, 0, 1], "probability": [0.9, 0.4, 0.3, 0.6], "decision": [1, 0, 0, 1], "case_id": list("ABCD")}
    )
    found = subgroup_table(table, {"g": pd.Series(["x", "x", "y", "y"])}, 100, 1).set_index("level")
    assert np.isnan(found.loc["x", "roc_auc"])
    assert found.loc["x", "sensitivity"] == 0.5


def test_what_the_index_tells_divides_patches() -> None:
    index = pd.DataFrame({"height": [50, 50, 30], "width": [50, 20, 50], "magnification": [40, 100, 40]})
    groups = patch_groups(index, np.array([0, 2]), None, (50, 50))
    assert groups["size as found"].tolist() == ["full", "undersized"]
    assert groups["magnification"].tolist() == [40, 40]
