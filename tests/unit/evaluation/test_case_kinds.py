"""Metrics within cases that hold positives, beside those of all cases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score

from histopipe.core.params import Params
from histopipe.evaluation.predictions import choose_operating_point, evaluate_predictions, predictions_table
from histopipe.reporting.comparison.table import as_markdown

MIXED, NEGATIVE, POSITIVE = 0.5, 0.0, 1.0  # shares of positive patches in a case


def predicted(kinds: list[float], skill: float = 0.3, donor: float = 3.0) -> pd.DataFrame:
    """Logits of a model that knows the patch a little and whether its case holds positives well.

    Args:
        kinds: per case the share of positive patches; the same cases again are validation.
        skill: how far the classes lie apart within a case, in standard deviations.
        donor: how far cases with positives lie above the others.
    """
    random = np.random.default_rng(7)
    rows = []
    for split in ("validation", "test"):
        for number, share in enumerate(kinds):
            labels = (np.arange(40) < 40 * share).astype(int)
            logit = skill * labels + donor * (share > 0) + random.normal(size=40)
            case = {"case_id": f"{split}{number}", "split": split, "label": labels, "logit": logit}
            rows.append(pd.DataFrame(case))
    table = pd.concat(rows, ignore_index=True)
    table.insert(0, "file", [f"{number}.png" for number in range(len(table))])
    return table


def graded(kinds: list[float], params: Params) -> tuple[dict[str, Any], pd.DataFrame]:
    logits = predicted(kinds)
    point = choose_operating_point(logits, params.evaluate.threshold) | {"positive_class": "Parasitized"}
    table = predictions_table(logits, point)
    return evaluate_predictions(table, point, {}, params), table[table["split"] == "test"]


def shown(results: dict[str, Any]) -> str:
    row = {"architecture": "network", "rank": 1, "rank_range": [1, 1], **results}
    content = {"dataset": "malaria", "positive_class": "Parasitized", "ranking": [row]}
    return as_markdown(content | {"pairs": [], "published": [], "implausible": None, "unranked": []})


@pytest.fixture
def params(params: Params) -> Params:
    return params.model_copy(update={"evaluate": params.evaluate.model_copy(update={"resamples": 200})})


def test_who_tells_donors_instead_of_cells_is_found_out_within_infected_donors(params: Params) -> None:
    results, test = graded([MIXED] * 12 + [NEGATIVE] * 12, params)
    inside = test[test.groupby("case_id")["label"].transform("max") == 1]
    within = results["within"]["positive_cases"]
    assert results["test"]["roc_auc"]["value"] > 0.8
    assert (within["cases"], within["patches"], within["positives"]) == (12, 480, 240)
    area, accuracy = within["test"]["roc_auc"], within["test"]["accuracy"]
    assert area["value"] == pytest.approx(roc_auc_score(inside["label"], inside["probability"]))
    assert accuracy["value"] == pytest.approx(accuracy_score(inside["label"], inside["decision"]))
    assert area["low"] < area["value"] < area["high"] < 0.7
    assert results["within"]["mixed_cases"]["test"] is None, "they are the same cases"
    lines = [line for line in shown(results).splitlines() if line.startswith("| network | cases that hold positives")]
    assert len(lines) == 1
    assert f"{area['value']:.3f} [{area['low']:.3f}, {area['high']:.3f}]" in lines[0]
    assert f"{results['test']['roc_auc']['value']:.3f} [" in lines[0]


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        ([POSITIVE] * 8 + [NEGATIVE] * 8, "undefined: no test case holds both classes"),
        ([MIXED] * 16, "every test case holds positives"),
    ],
)
def test_where_it_is_undefined_or_nothing_new_a_line_says_so(kinds: list[float], said: str, params: Params) -> None:
    results, _ = graded(kinds, params)
    assert results["within"]["positive_cases"]["test"] is None
    assert results["within"]["positive_cases"]["reason"].startswith(said)
    assert f"Within cases that hold positives: {said}" in shown(results)


def test_cases_of_positives_alone_beside_mixed_ones_are_told_apart_too(params: Params) -> None:
    results, test = graded([MIXED] * 8 + [POSITIVE] * 4, params)
    mixed = test[test.groupby("case_id")["label"].transform("min") == 0]
    within = results["within"]["mixed_cases"]
    assert within["cases"] == 8
    assert within["test"]["roc_auc"]["value"] == pytest.approx(roc_auc_score(mixed["label"], mixed["probability"]))
    assert "cases of both classes: 8, 320 patches" in shown(results)


def test_one_infected_donor_alone_tells_nothing_for_sure(params: Params) -> None:
    results, _ = graded([MIXED] + [NEGATIVE] * 6, params)
    area = results["within"]["positive_cases"]["test"]["roc_auc"]
    assert (area["low"], area["high"]) == (0.0, 1.0)


def test_results_of_before_there_were_any_are_shown_without(params: Params) -> None:
    results, _ = graded([MIXED] * 6 + [NEGATIVE] * 2, params)
    del results["within"]
    assert "hold positives" not in shown(results)
