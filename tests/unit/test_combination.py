"""The comparison's rows that follow from other rows' predictions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from sklearn.metrics import roc_auc_score

from histopipe.combination import ENSEMBLE, ONE_VIEW, combined_rows, ensemble_logits
from histopipe.params import Params
from histopipe.paths import Workspace

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


def write(workspace: Workspace, name: str, table: pd.DataFrame) -> dict[str, Any]:
    folder = workspace.evaluation("idc", name)
    folder.mkdir(parents=True)
    table.to_parquet(folder / "predictions.parquet", index=False)
    return {"architecture": name, **ROWS}


def test_the_ensemble_is_the_mean_of_log_odds_whatever_the_order_of_patches() -> None:
    one, two = predictions(1, 1.0), predictions(2, 1.0)
    mixed = ensemble_logits([one, two.sample(frac=1, random_state=0)])
    expected = (logit(one["probability"]) + logit(two["probability"])) / 2
    np.testing.assert_allclose(mixed["logit"], expected)
    assert list(mixed["file"]) == list(one["file"])


def test_independent_errors_average_out(workspace: Workspace, params: Params) -> None:
    tables = [predictions(seed, 2.0) for seed in range(4)]
    rows = [write(workspace, f"network{number}", table) for number, table in enumerate(tables)]
    (row,) = combined_rows("idc", rows, params, workspace)
    tests = [table[table["split"] == "test"] for table in tables]
    single = max(roc_auc_score(test["label"], test["probability"]) for test in tests)
    assert row["architecture"] == ENSEMBLE
    assert row["members"] == [f"network{number}" for number in range(4)]
    assert row["test"]["roc_auc"]["value"] > single + 0.03
    assert row["cases"] == 6
    assert 0 < row["threshold"] < 1


def test_a_network_without_its_averaging_is_a_row_of_its_own(workspace: Workspace, params: Params) -> None:
    table = predictions(1, 1.0).assign(one_view=predictions(5, 3.0)["probability"])
    rows = [write(workspace, "averaged", table)]
    (row,) = combined_rows("idc", rows, params, workspace)
    test = table[table["split"] == "test"]
    assert row["architecture"] == "averaged" + ONE_VIEW
    assert row["test"]["roc_auc"]["value"] == pytest.approx(roc_auc_score(test["label"], test["one_view"]))


def test_sure_predictions_have_finite_log_odds(workspace: Workspace, params: Params) -> None:
    table = predictions(1, 1.0)
    table.loc[table["probability"] > 0.9, "probability"] = 1.0
    rows = [write(workspace, name, table) for name in ("one", "two")]
    (row,) = combined_rows("idc", rows, params, workspace)
    assert row["test"]["brier"]["value"] < 0.25


def test_marks_of_any_member_mark_the_ensemble(workspace: Workspace, params: Params) -> None:
    capped = write(workspace, "capped", predictions(1, 1.0)) | {"quick": {"max_epochs": 3}}
    rows = [write(workspace, "full", predictions(2, 1.0)), capped]
    (row,) = combined_rows("idc", rows, params, workspace)
    assert row["quick"] == {"max_epochs": 3}
    assert row["leaky"] is None
