"""The comparison's rows that follow from other rows' predictions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from sklearn.metrics import roc_auc_score

from histopipe.core.params import Params
from histopipe.reporting.comparison.combination import D4, ENSEMBLE, ONE_VIEW, combination_rows, ensemble_logits
from histopipe.reporting.comparison.evaluations import EvaluatedModel

ROWS = {"positive_class": "IDC", "quick": None, "leaky": False}


def predictions(seed: int, noise: float) -> pd.DataFrame:
    """Calibrated probabilities of 12 cases, half of them validation; two seeds differ in their errors alone."""
    labels = np.tile([0, 1, 0, 0, 1], 48)
    cases = np.repeat([f"C{number:02}" for number in range(12)], 20)
    odds = 2.0 * labels - 1 + noise * np.random.default_rng(seed).normal(size=240)
    return pd.DataFrame(
        {
            "file": [f"{number}.png" for number in range(240)],
            "case_id": cases,
            "split": np.where(cases < "C06", "validation", "test"),
            "label": labels,
            "probability": expit(odds),
        }
    )


def evaluated(name: str, table: pd.DataFrame, **marks: Any) -> EvaluatedModel:
    return EvaluatedModel({"architecture": name, **ROWS, **marks}, table)


def only_row(models: list[EvaluatedModel], params: Params) -> dict[str, Any]:
    (found,) = combination_rows(models, params)
    return found.row


def test_the_ensemble_is_the_mean_of_log_odds_whatever_the_order_of_patches() -> None:
    one, two = predictions(1, 1.0), predictions(2, 1.0)
    mixed = ensemble_logits([one, two.sample(frac=1, random_state=0)])
    expected = (logit(one["probability"]) + logit(two["probability"])) / 2
    np.testing.assert_allclose(mixed["logit"], expected)
    assert list(mixed["file"]) == list(one["file"])


def test_independent_errors_average_out(params: Params) -> None:
    tables = [predictions(seed, 2.0) for seed in range(4)]
    row = only_row([evaluated(f"network{number}", table) for number, table in enumerate(tables)], params)
    tests = [table[table["split"] == "test"] for table in tables]
    single = max(roc_auc_score(test["label"], test["probability"]) for test in tests)
    assert row["architecture"] == ENSEMBLE
    assert row["members"] == [f"network{number}" for number in range(4)]
    assert row["test"]["roc_auc"]["value"] > single + 0.03
    assert row["cases"] == 6
    assert 0 < row["threshold"] < 1


@pytest.mark.parametrize(("column", "name"), [("one_view", "network" + ONE_VIEW), ("d4", "network" + D4)])
def test_a_network_without_or_with_averaging_is_a_row_of_its_own(params: Params, column: str, name: str) -> None:
    table = predictions(1, 1.0).assign(**{column: predictions(5, 3.0)["probability"]})
    row = only_row([evaluated("network", table)], params)
    test = table[table["split"] == "test"]
    assert (row["architecture"], row["members"]) == (name, ["network"])
    assert row["test"]["roc_auc"]["value"] == pytest.approx(roc_auc_score(test["label"], test[column]))


def test_sure_predictions_have_finite_log_odds(params: Params) -> None:
    table = predictions(1, 1.0)
    table.loc[table["probability"] > 0.9, "probability"] = 1.0
    row = only_row([evaluated(name, table) for name in ("one", "two")], params)
    assert row["test"]["brier"]["value"] < 0.25


def test_marks_of_any_member_mark_the_ensemble(params: Params) -> None:
    capped = evaluated("capped", predictions(1, 1.0), quick={"max_epochs": 3})
    row = only_row([evaluated("full", predictions(2, 1.0)), capped], params)
    assert row["quick"] == {"max_epochs": 3}
    assert row["leaky"] is None
