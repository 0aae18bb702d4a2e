"""The comparison of a data set's architectures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image
from scipy.special import expit

from histopipe.cli import main
from histopipe.core.errors import EvaluationError
from histopipe.core.files import file_digest, write_json
from histopipe.core.params import CompareParams, Params, parse_params
from histopipe.core.workspace import Workspace
from histopipe.data.store import INDEX_FILE
from histopipe.evaluation.metrics import METRICS
from histopipe.reporting.stage import compare
from histopipe.training.recipe import recipe_digest

RECIPE = {"architecture": "cancernet", "optimizer": {"name": "adam", "learning_rate": 0.001}, "epochs": 2}
MEASURED = {"value": 0.7, "low": 0.6, "high": 0.8}


PATCHES = pd.DataFrame(
    {
        "file": [f"{number}.png" for number in range(240)],
        "case_id": np.repeat([f"C{number:02}" for number in range(12)], 20),
        "label": np.tile([0, 1, 0, 0, 1], 48),
    }
)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Twelve cases, half of them validation, in a store's index and a split."""
    workspace = Workspace(tmp_path)
    workspace.store("idc").mkdir(parents=True)
    PATCHES.assign(shard=0, row=range(240)).to_parquet(workspace.store("idc") / INDEX_FILE)
    workspace.split("idc").parent.mkdir(parents=True)
    cases = [f"C{number:02},{'validation' if number < 6 else 'test'}" for number in range(12)]
    workspace.split("idc").write_text("case_id,split\n" + "\n".join(cases) + "\n")
    return workspace


def params(*architectures: str, **changes: Any) -> Params:
    return sourced("synthetic", *architectures, **changes)


def sourced(source: str, *architectures: str, **changes: Any) -> Params:
    recipes = dict.fromkeys(architectures, RECIPE | changes)
    content = {"datasets": ["idc"], "architectures": list(architectures), "idc": {"source": source}, "recipes": recipes}
    return parse_params(content)


def write_evaluation(workspace: Workspace, name: str, roc_auc: float, made_with: Params, **more: Any) -> None:
    test = dict.fromkeys(METRICS, MEASURED)
    test["roc_auc"] = {"value": roc_auc, "low": roc_auc - 0.1, "high": roc_auc + 0.05}
    content = {
        "test": test,
        "validation": dict.fromkeys(METRICS, 0.75),
        "threshold": 0.4,
        "positive_class": "IDC",
        "cases": 42,
        "patches": 41_000,
        "split_digest": file_digest(workspace.split("idc")),
        "recipe_digest": recipe_digest(made_with, name),
        "quick": None,
        "leaky": False,
    }
    folder = workspace.evaluation("idc", name)
    folder.mkdir(parents=True)
    write_json(folder / "metrics.json", content | more)
    write_predictions(folder, strength=roc_auc)


def write_predictions(folder: Path, strength: float) -> None:
    """Predictions of all patches; the numbers of `metrics.json` needn't follow from them."""
    table = PATCHES.assign(split=np.where(PATCHES["case_id"] < "C06", "validation", "test"))
    probability = expit(4 * strength * (table["label"] - 0.5) + np.random.default_rng(1).normal(size=240))
    table["probability"], table["decision"] = probability, (probability > 0.5).astype(int)
    table.to_parquet(folder / "predictions.parquet", index=False)


def test_the_best_area_under_the_curve_comes_first(workspace: Workspace) -> None:
    two = params("first", "second")
    write_evaluation(workspace, "first", 0.80, two)
    write_evaluation(workspace, "second", 0.90, two)
    content = compare("idc", two, workspace)
    assert [row["architecture"] for row in content["ranking"] if "members" not in row] == ["second", "first"]
    assert content == json.loads((workspace.report("idc") / "comparison.json").read_text())
    table = (workspace.report("idc") / "comparison.md").read_text()
    assert "| second | 0.900 [0.800, 0.950] |" in table
    assert "Positive class: IDC" in table
    for name in ("comparison.png", "pairs.png"):
        with Image.open(workspace.report("idc") / name) as picture:
            assert picture.width > 800


def test_every_two_models_are_compared_case_by_case(workspace: Workspace) -> None:
    two = params("first", "second")
    write_evaluation(workspace, "first", 0.80, two)
    write_evaluation(workspace, "second", 0.90, two)
    content = compare("idc", two, workspace)
    assert len(content["pairs"]) == 3  # with the ensemble
    table = (workspace.report("idc") / "comparison.md").read_text()
    assert table.count("| separable |") + table.count("| not separable |") == 1
    assert table.count("| descriptive |") == 2
    assert table.count("| separable |") == sum(bool(pair["separable"]) for pair in content["pairs"])
    assert "correction for the one pair of recipes" in table


def test_one_architecture_is_enough(workspace: Workspace) -> None:
    write_evaluation(workspace, "only", 0.8, params("only"))
    assert len(compare("idc", params("only"), workspace)["ranking"]) == 1


@pytest.mark.parametrize("placed", [True, False])
def test_on_request_a_row_takes_neighbours_into_account_or_says_why_not(workspace: Workspace, placed: bool) -> None:
    asked = params("only").model_copy(update={"compare": CompareParams(neighbourhood=True)})
    write_evaluation(workspace, "only", 0.8, asked)
    if placed:
        path = workspace.store("idc") / INDEX_FILE
        grid = {"x": np.tile(np.arange(20) % 5 * 50, 12), "y": np.tile(np.arange(20) // 5 * 50, 12)}
        pd.read_parquet(path).assign(**grid, width=50, height=50).to_parquet(path)
    content = compare("idc", asked, workspace)
    names = {row["architecture"] for row in content["ranking"]}
    table = (workspace.report("idc") / "comparison.md").read_text()
    assert names == ({"only", "only + neighbours"} if placed else {"only"})
    assert ("Not ranked: only + neighbours: not made, the patches have no coordinates." in table) != placed
    assert ("Neighbours: a logistic regression" in table) == placed


def test_what_has_not_been_evaluated_is_listed_with_the_remedy(workspace: Workspace) -> None:
    two = params("first", "second")
    write_evaluation(workspace, "first", 0.8, two)
    content = compare("idc", two, workspace)
    reason = "run `dvc repro evaluate@idc-second`"
    assert content["unranked"] == [{"architecture": "second", "state": "not trained", "reason": reason}]
    assert "Not ranked: second: not trained" in (workspace.report("idc") / "comparison.md").read_text()


def test_folders_of_architectures_that_are_not_listed_do_not_count(workspace: Workspace) -> None:
    write_evaluation(workspace, "listed", 0.8, params("listed"))
    write_evaluation(workspace, "left_over", 0.99, params("left_over"))
    content = compare("idc", params("listed"), workspace)
    assert [row["architecture"] for row in content["ranking"]] == ["listed"]
    assert content["unranked"] == []


def test_an_evaluation_on_another_split_is_out_of_date(workspace: Workspace) -> None:
    two = params("first", "second")
    write_evaluation(workspace, "first", 0.8, two, split_digest="0" * 64)
    write_evaluation(workspace, "second", 0.7, two)
    assert "the split changed since" in compare("idc", two, workspace)["unranked"][0]["reason"]


def test_an_evaluation_of_other_patches_is_out_of_date(workspace: Workspace) -> None:
    two = params("first", "second")
    for name in ("first", "second"):
        write_evaluation(workspace, name, 0.8, two)
    path = workspace.evaluation("idc", "first") / "predictions.parquet"
    pd.read_parquet(path).iloc[:-3].to_parquet(path)
    content = compare("idc", two, workspace)
    assert "the data changed since: run `dvc repro evaluate@idc-first`" in content["unranked"][0]["reason"]
    assert [row["architecture"] for row in content["ranking"]] == ["second"]


@pytest.mark.parametrize("fits", [True, False])
def test_a_training_that_dvc_wrongly_calls_up_to_date_is_to_be_forced(workspace: Workspace, fits: bool) -> None:
    """As where `params.yaml` was edited while an earlier release trained."""
    write_evaluation(workspace, "first", 0.8, params("first"))
    write_json(workspace.training_record("idc", "first"), {"recipe_digest": "of before", "split_digest": "of before"})
    recipe = RECIPE | {"epochs": 3}
    workspace.params.write_text(yaml.safe_dump({"recipes": {"first": recipe if fits else RECIPE}}))
    locked = {"deps": [], "params": {"params.yaml": {"recipes.first": recipe}}}
    workspace.dvc_lock.write_text(yaml.safe_dump({"stages": {"train@idc-first": locked}}))
    force = "run `dvc repro --force --single-item train@idc-first`, then `dvc repro evaluate@idc-first`"
    with pytest.raises(EvaluationError, match=force if fits else "run `dvc repro evaluate@idc-first`"):
        compare("idc", params("first", epochs=3), workspace)


def test_an_evaluation_of_another_recipe_is_out_of_date(workspace: Workspace) -> None:
    write_evaluation(workspace, "first", 0.8, params("first", epochs=9))
    with pytest.raises(EvaluationError, match="first: out of date, the recipe changed since: run `dvc repro"):
        compare("idc", params("first"), workspace)


def spoil_predictions(workspace: Workspace, name: str, spoil: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    path = workspace.evaluation("idc", name) / "predictions.parquet"
    spoil(pd.read_parquet(path)).to_parquet(path, index=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda table: table.drop(columns="case_id"), "has no column case_id"),
        (lambda table: table.assign(case_id=None), "holds 240 patches without a case"),
        (lambda table: table.assign(probability=np.nan), "holds 240 invalid probabilities (first: 0.png)"),
        (lambda table: table.assign(probability="none"), "holds 240 invalid probabilities (first: 0.png)"),
        (lambda table: table.assign(label=np.nan), "holds values of label other than 0 and 1"),
        (lambda table: table.assign(decision=2), "holds values of decision other than 0 and 1"),
        (
            lambda table: table.assign(probability=table["probability"].replace(table["probability"][7], 2.0)),
            "holds 1 invalid probability (first: 7.png)",
        ),
    ],
)
def test_predictions_that_are_none_are_not_ranked_and_take_no_other_with_them(
    workspace: Workspace, spoil: Callable[[pd.DataFrame], pd.DataFrame], said: str
) -> None:
    two = params("first", "second")
    for name in ("first", "second"):
        write_evaluation(workspace, name, 0.8, two)
    spoil_predictions(workspace, "second", spoil)
    content = compare("idc", two, workspace)
    assert [row["architecture"] for row in content["ranking"]] == ["first"]
    (left_out,) = content["unranked"]
    assert left_out["state"] == "not readable"
    assert f"evaluations/idc/second/predictions.parquet {said}" in left_out["reason"]


def test_the_command_refuses_damaged_predictions_in_one_line(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_with = params("first")
    write_evaluation(workspace, "first", 0.8, made_with)
    compare("idc", made_with, workspace)
    before = (workspace.report("idc") / "comparison.json").read_bytes()
    (workspace.evaluation("idc", "first") / "predictions.parquet").write_bytes(b"PAR1 no more")
    written = {"datasets": ["idc"], "architectures": ["first"], "idc": {}, "recipes": {"first": RECIPE}}
    workspace.params.write_text(yaml.safe_dump(written))
    monkeypatch.chdir(workspace.root)
    done = CliRunner().invoke(main, ["compare", "idc"])
    assert done.exit_code == 2
    assert done.stderr.startswith("histopipe: no architecture is evaluated on idc: first: not readable")
    assert done.stderr.count("\n") == 1
    assert (workspace.report("idc") / "comparison.json").read_bytes() == before


def test_without_any_evaluation_the_error_says_what_to_run(workspace: Workspace) -> None:
    with pytest.raises(EvaluationError, match=r"run `dvc repro evaluate@idc-first`") as problem:
        compare("idc", params("first", "second"), workspace)
    assert "\n" not in str(problem.value)
    assert not workspace.report("idc").exists()


def test_caps_and_leaks_are_footnoted_and_undefined_values_named(workspace: Workspace) -> None:
    undefined = {"value": None, "low": None, "high": None}
    test = dict.fromkeys(METRICS, MEASURED) | {"f1": undefined}
    write_evaluation(workspace, "first", 0.8, params("first"), quick={"max_epochs": 3}, leaky=True, test=test)
    compare("idc", params("first"), workspace)
    table = (workspace.report("idc") / "comparison.md").read_text()
    assert "first\\*!" in table
    assert "Trained under the caps of `quick` (max_epochs 3)" in table
    assert "into training and test: these numbers measure memory" in table
    assert "| undefined |" in table


def test_why_intervals_may_be_too_narrow_is_said_once(workspace: Workspace) -> None:
    both = params("first", "second")
    write_evaluation(workspace, "first", 0.8, both, cautions=["few cases", "large cases are harder"])
    write_evaluation(workspace, "second", 0.7, both, cautions=["few cases"])
    compare("idc", both, workspace)
    table = (workspace.report("idc") / "comparison.md").read_text()
    assert table.count("**Intervals may be too narrow** (first, second): few cases.") == 1
    assert table.count("**Intervals may be too narrow** (first): large cases are harder.") == 1


def test_a_model_that_started_from_unknown_weights_is_marked_and_still_suspected(workspace: Workspace) -> None:
    real = sourced("archive.zip", "first")
    write_evaluation(workspace, "first", 0.98, real, leaky="unknown")
    content = compare("idc", real, workspace)
    assert content["implausible"] is not None
    table = (workspace.report("idc") / "comparison.md").read_text()
    assert "| first? |" in table
    assert "? Started from weights whose training cases are unknown: these numbers may measure memory." in table
    page = (workspace.report("idc") / "index.html").read_text()
    assert "leaky: unknown</span>" in page
    assert "No promotion has used these test cases yet." in page


def test_a_number_too_good_to_be_true_is_a_warning(workspace: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    real = sourced("archive.zip", "first")
    write_evaluation(workspace, "first", 0.98, real)
    assert compare("idc", real, workspace)["implausible"] == {"limit": 0.97, "architectures": ["first"]}
    assert "first: a ROC AUC above 0.97" in caplog.text
    assert "Too good to be true?" in (workspace.report("idc") / "comparison.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("roc_auc", "leaky", "source"), [(0.96, False, "a.zip"), (0.98, True, "a.zip"), (0.98, False, "synthetic")]
)
def test_no_alarm_without_reason(workspace: Workspace, roc_auc: float, leaky: bool, source: str) -> None:
    made = sourced(source, "first")
    write_evaluation(workspace, "first", roc_auc, made, leaky=leaky)
    assert compare("idc", made, workspace)["implausible"] is None
