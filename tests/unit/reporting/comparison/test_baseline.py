"""The comparison's row that needs no network: a logistic regression on colours."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from histopipe.core.colours import COLOURS
from histopipe.core.errors import ParamsError
from histopipe.core.files import read_json, write_json
from histopipe.core.params import Params, parse_params
from histopipe.core.workspace import Workspace
from histopipe.data.splitting.membership import split_of_patches
from histopipe.data.store import INDEX_FILE, read_index
from histopipe.evaluation.figures import format_estimate
from histopipe.reporting.comparison.baseline import with_baseline
from histopipe.reporting.comparison.evaluations import read_evaluations
from histopipe.reporting.report.answer import answer
from histopipe.reporting.stage import compare
from tests.builders.reports import make_reported, report_params


def coloured(workspace: Workspace, gap: float) -> pd.DataFrame:
    """Give the store's index colours in which positive patches are darker by `gap` standard deviations."""
    path = workspace.store("idc") / INDEX_FILE
    index = pd.read_parquet(path)
    random = np.random.default_rng(3)
    values = random.normal(150, 10, (len(index), 6)) - 10 * gap * index["label"].to_numpy()[:, np.newaxis] / np.sqrt(6)
    index[COLOURS] = values.astype(np.float32)
    index.to_parquet(path, index=False)
    return index


NAMES = ("cancernet", "resnet")


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, dict[str, Any]]:
    """Two networks, one of them at chance, compared; colours tell the classes apart by two standard deviations."""
    workspace = make_reported(tmp_path_factory.mktemp("compared"), {"cancernet": 1.0, "resnet": 0.0})
    coloured(workspace, 2.0)
    return workspace, compare("idc", report_params(*NAMES), workspace)


@pytest.fixture
def workspace(compared: tuple[Workspace, dict[str, Any]], tmp_path: Path) -> Workspace:
    """A copy that a test may change."""
    shutil.copytree(compared[0].root, tmp_path / "copy")
    return Workspace(tmp_path / "copy")


def row_of(content: dict[str, Any], name: str = "baseline") -> dict[str, Any]:
    (row,) = [row for row in content["ranking"] if row["architecture"] == name]
    return row


def baseline(workspace: Workspace, params: Params | None = None) -> dict[str, Any]:
    """The row as the comparison makes it."""
    ranked, _ = read_evaluations("idc", report_params(*NAMES), workspace)
    ((found,), _) = with_baseline("idc", ranked, params or report_params(*NAMES), workspace)
    return found.row


@pytest.mark.slow
def test_every_comparison_says_what_colours_alone_reach(compared: tuple[Workspace, dict[str, Any]]) -> None:
    workspace, content = compared
    row = row_of(content)
    index = read_index(workspace.store("idc"))
    split = split_of_patches(workspace.split("idc"), index)
    train, test = index[split == "train"], index[split == "test"]
    plain = LogisticRegression(max_iter=1000).fit(train[COLOURS], train["label"])
    expected = roc_auc_score(test["label"], plain.decision_function(test[COLOURS]))
    assert row["test"]["roc_auc"]["value"] == pytest.approx(expected, abs=0.03)
    assert row["test"]["roc_auc"]["low"] < expected < row["test"]["roc_auc"]["high"]
    assert (row["cases"], row["patches"]) == (6, len(test))
    assert row["test"]["roc_auc"]["value"] > row_of(content, "resnet")["test"]["roc_auc"]["value"] + 0.2
    table = (workspace.report("idc") / "comparison.md").read_text()
    assert table.count("| baseline |") == 1
    assert "baseline: a logistic regression, without a network" in table
    assert '<th scope="row">baseline</th>' in (workspace.report("idc") / "index.html").read_text()
    again = {name: value for name, value in row.items() if not name.startswith("rank")}
    assert baseline(workspace) == again, "the same data give the same row"


def test_the_answer_says_what_the_best_network_adds_and_never_calls_colours_the_best(
    compared: tuple[Workspace, dict[str, Any]],
) -> None:
    content = compared[1]
    assert content["ranking"][0]["architecture"] == "baseline", "colours are better than these networks"
    said = answer(content)
    assert not said.startswith("baseline")
    reached = format_estimate(row_of(content)["test"]["roc_auc"])
    (sentence,) = [part for part in said.split(". ") if "Colours alone (baseline) reach" in part]
    assert f"reach {reached}; " in sentence
    assert " behind them (-0." in sentence or "isn't distinguishable from them (-0." in sentence


def test_it_learns_nothing_from_validation_or_test(workspace: Workspace) -> None:
    before = baseline(workspace)
    path = workspace.store("idc") / INDEX_FILE
    index = pd.read_parquet(path)
    test = (split_of_patches(workspace.split("idc"), index) == "test").to_numpy()
    index.loc[test, COLOURS] = 0.0
    index.to_parquet(path, index=False)
    after = baseline(workspace)
    assert [after[name] for name in ("threshold", "temperature", "validation")] == [
        before[name] for name in ("threshold", "temperature", "validation")
    ]
    assert after["test"]["roc_auc"]["value"] == 0.5


def test_weights_that_have_seen_test_cases_are_no_fault_of_colours(workspace: Workspace) -> None:
    path = workspace.evaluation("idc", "cancernet") / "metrics.json"
    write_json(path, read_json(path) | {"leaky": True})
    assert not baseline(workspace)["leaky"]


def test_it_is_no_candidate_for_promotion(compared: tuple[Workspace, dict[str, Any]]) -> None:
    ranked, _ = read_evaluations("idc", report_params(*NAMES), compared[0])
    assert "baseline" not in [each.row["architecture"] for each in ranked]


@pytest.mark.slow
def test_without_colour_statistics_a_line_says_so(tmp_path: Path) -> None:
    workspace = make_reported(tmp_path, {"cancernet": 1.0})
    content = compare("idc", report_params("cancernet"), workspace)
    assert [row["architecture"] for row in content["ranking"]] == ["cancernet"]
    said = "No baseline: not made, the store has no colour statistics"
    assert said in (workspace.report("idc") / "comparison.md").read_text()


@pytest.mark.parametrize("name", ["baseline", "ensemble"])
def test_no_recipe_takes_its_name(content: dict[str, Any], name: str) -> None:
    content["recipes"][name] = content["recipes"]["cancernet"]
    with pytest.raises(ParamsError, match=rf"params.yaml: recipes.{name}: the comparison has a row with this name"):
        parse_params(content)


def test_under_the_caps_it_learns_from_as_few_patches_as_the_networks(workspace: Workspace) -> None:
    params = report_params(*NAMES)
    capped = Params.model_validate(params.model_dump() | {"quick": {"max_patches": 20}})
    full, few = baseline(workspace), baseline(workspace, capped)
    assert few["test"]["roc_auc"]["value"] != full["test"]["roc_auc"]["value"]
