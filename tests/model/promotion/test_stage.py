"""Promotion against a real embedded registry, with real networks of known strength."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import keras
import mlflow
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from benchmarks.checkouts import NO_FLOORS
from histopipe.cli import main
from histopipe.core.errors import PromotionError
from histopipe.core.files import file_digest, read_json
from histopipe.core.workspace import Workspace
from histopipe.data.store import INDEX_FILE, shard_name
from histopipe.evaluation.stage import evaluate
from histopipe.promotion.stage import promote, rollback
from histopipe.promotion.summary import promotion_summary
from tests.builders.promotions import asked, kept, versions, write_training
from tests.builders.registry import NAME, aliases, client, tags


def test_the_first_model_that_meets_the_floors_is_champion(workspace: Workspace) -> None:
    verdict = promote("idc", asked("good"), workspace)
    assert verdict.promoted
    assert aliases(workspace) == {"champion": "1"}
    held = tags(workspace, "1")
    point = read_json(workspace.evaluation("idc", "good") / "operating_point.json")
    assert (held["architecture"], held["verdict"], held["reasons"]) == ("good", "promoted", "none")
    assert (held["training_run"], held["threshold"]) == ("1" * 32, str(point["threshold"]))
    assert held["split_digest"] == file_digest(workspace.split("idc"))
    assert held["data_digest"] == file_digest(workspace.store("idc") / INDEX_FILE)
    metrics = read_json(workspace.evaluation("idc", "good") / "metrics.json")
    assert float(held["gate.sensitivity.measured"]) == pytest.approx(metrics["test"]["sensitivity"]["value"])
    assert (held["gate.sensitivity.limit"], held["gate.sensitivity"]) == ("0.3", "passed")
    assert "gate.difference" not in held


def test_the_version_serves_what_was_graded(workspace: Workspace) -> None:
    promote("idc", asked("good"), workspace)
    client(workspace)
    table = pd.read_parquet(workspace.evaluation("idc", "good") / "predictions.parquet")
    patches = np.load(workspace.store("idc") / shard_name(0))[table["file"].str.removesuffix(".png").astype(int)]
    answer = mlflow.pyfunc.load_model(f"models:/{NAME}@champion").predict(patches)
    np.testing.assert_allclose(answer["probability"], table["probability"], atol=1e-5)
    assert answer["decision"].tolist() == table["decision"].tolist()


def test_the_card_says_what_the_files_say_and_lies_with_the_run(workspace: Workspace, tmp_path: Path) -> None:
    promote("idc", asked("good"), workspace)
    version = client(workspace).get_model_version(NAME, "1")
    card = kept(workspace, "1", "model_card.md", tmp_path).read_text()
    assert version.description == card
    metrics = read_json(workspace.evaluation("idc", "good") / "metrics.json")
    area = metrics["test"]["roc_auc"]
    wanted = [
        "Research use only",
        f"| roc auc | {area['value']:.3f} [{area['low']:.3f}, {area['high']:.3f}] |",
        f"IDC at a probability of {metrics['threshold']:.4f} or more",
        "by the rule youden",
        "12 cases trained on, 12 for validation (192 patches), 12 for test (192 patches)",
        "set aside, second copy: 3",
        "under the caps of `quick` (max_epochs 3)",
        "balanced accuracy",
        f"keras=={keras.__version__}",
        version.run_id,
    ]
    assert [line for line in wanted if line not in card] == []


def test_promoted_again_nothing_changes(workspace: Workspace) -> None:
    promote("idc", asked("good"), workspace)
    before = tags(workspace, "1")
    verdict = promote("idc", asked("good"), workspace)
    assert not verdict.judged
    assert "champion already" in str(verdict)
    assert (versions(workspace), aliases(workspace), tags(workspace, "1")) == (1, {"champion": "1"}, before)


def test_a_worse_challenger_is_refused_with_reasons_and_a_better_one_promoted(workspace: Workspace) -> None:
    promote("idc", asked("good"), workspace)
    for _ in range(2):  # refused twice, it is still one version
        assert not promote("idc", asked("worse"), workspace).promoted
        assert aliases(workspace) == {"champion": "1", "challenger": "2"}
    held = tags(workspace, "2")
    assert held["verdict"] == "refused"
    assert "ROC AUC less the champion's, lower end of its interval: -0." in held["reasons"]
    assert float(held["gate.difference.measured"]) < float(held["gate.difference.limit"]) == -0.02
    assert f"Refused: {held['reasons']}" in promotion_summary("idc", workspace)
    assert promote("idc", asked("worse", "better", "good"), workspace).architecture == "better"
    assert aliases(workspace) == {"champion": "3", "challenger": "2"}
    assert tags(workspace, "3")["previous_champion"] == "1"


def test_a_second_verdict_on_a_version_leaves_nothing_of_the_first(workspace: Workspace) -> None:
    promote("idc", asked("good"), workspace)
    refused = promote("idc", asked("worse"), workspace)
    assert {"gate.difference", "gate.anchor"} <= tags(workspace, "2").keys()
    client(workspace).delete_registered_model_alias(NAME, "champion")
    client(workspace).delete_registered_model_tag(NAME, "anchor")
    promoted = promote("idc", asked("worse", promotion=NO_FLOORS), workspace)
    held = tags(workspace, "2")
    assert (refused.version, promoted.version, held["verdict"]) == ("2", "2", "promoted")
    judged = {gate.name for gate in promoted.gates}
    assert {key.split(".")[1] for key in held if key.startswith("gate.")} == judged
    assert "ROC AUC less" not in promotion_summary("idc", workspace)


def test_a_challenger_that_becomes_champion_is_no_challenger_any_more(workspace: Workspace) -> None:
    strict = asked("better", promotion={"min_cases": 30})
    promote("idc", strict, workspace)
    assert aliases(workspace) == {"challenger": "1"}
    promote("idc", asked("better"), workspace)
    assert aliases(workspace) == {"champion": "1"}


def test_another_threshold_is_another_version_of_the_same_run(workspace: Workspace, tmp_path: Path) -> None:
    promote("idc", asked("good"), workspace)
    changed = asked("good", evaluate={"resamples": 200, "threshold": "sensitivity>=0.9"})
    evaluate("idc", "good", changed, workspace)
    assert promote("idc", changed, workspace).promoted
    assert aliases(workspace) == {"champion": "2"}
    assert tags(workspace, "1")["training_run"] == tags(workspace, "2")["training_run"]
    assert tags(workspace, "1")["threshold"] != tags(workspace, "2")["threshold"]
    for number, rule in (("1", "youden"), ("2", "sensitivity>=0.9")):
        card = kept(workspace, number, "model_card.md", tmp_path).read_text()
        assert f"validation chose by the rule {rule}." in card
        assert client(workspace).get_model_version(NAME, number).description == card
    rollback("idc", workspace)
    assert not promote("idc", changed, workspace).promoted


@pytest.mark.parametrize("temporary", [True, False], ids=["temporary folder", "in place"])
def test_an_experiment_does_not_promote_and_says_how(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, temporary: bool
) -> None:
    here = workspace.root
    if temporary:
        here = workspace.root / ".dvc/tmp/exps/tmp1"
        shutil.copytree(workspace.root, here, ignore=shutil.ignore_patterns(".dvc", "mlflow.db"))
    else:
        monkeypatch.setenv("DVC_EXP_NAME", "puffy-ayah")
    monkeypatch.chdir(here)
    done = CliRunner().invoke(main, ["promote", "idc"])
    assert (done.exit_code, done.output.count("\n")) == (0, 1)
    assert (
        "experiments don't promote: keep this one with `dvc exp apply`, then run `histopipe promote idc`" in done.output
    )
    assert versions(workspace) == 0
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    monkeypatch.chdir(workspace.root)
    assert CliRunner().invoke(main, ["promote", "idc"]).exit_code == 0
    assert aliases(workspace) == {"champion": "1"}


def test_an_evaluation_from_elsewhere_is_logged_from_its_files(workspace: Workspace) -> None:
    """Another machine's results, from DVC's cache: this tracking store has never heard of them."""
    (workspace.root / "mlflow.db").unlink()
    assert promote("idc", asked("good"), workspace).promoted
    promote("idc", asked("good"), workspace)
    (run,) = client(workspace).search_runs([client(workspace).get_experiment_by_name(NAME).experiment_id])
    assert run.data.tags["restored_from"] == "1" * 32
    assert tags(workspace, "1")["run_id"] == run.info.run_id
    assert mlflow.pyfunc.load_model(f"models:/{NAME}@champion").metadata.run_id == run.info.run_id


def spoil_probabilities(workspace: Workspace) -> None:
    path = workspace.evaluation("idc", "good") / "predictions.parquet"
    table = pd.read_parquet(path)
    table.loc[table["split"] == "test", "probability"] = np.nan
    table.to_parquet(path, index=False)


def train_again(workspace: Workspace) -> None:
    experiment = client(workspace).get_experiment_by_name(NAME)
    assert experiment is not None
    write_training(workspace, "good", client(workspace).create_run(experiment.experiment_id).info.run_id)


def lose_evaluation(workspace: Workspace) -> None:
    shutil.rmtree(workspace.evaluation("idc", "good"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_probabilities, "holds 192 invalid probabilities (first: "),
        (train_again, "good was trained again since it was evaluated: run `dvc repro evaluate@idc-good`"),
        (lose_evaluation, "no architecture is evaluated on idc: good: not trained"),
    ],
)
def test_what_cannot_be_judged_is_refused_in_one_line(
    workspace: Workspace, spoil: Callable[[Workspace], None], message: str
) -> None:
    spoil(workspace)
    with pytest.raises(PromotionError) as problem:
        promote("idc", asked("good"), workspace)
    assert message in str(problem.value)
    assert "\n" not in str(problem.value)
    assert versions(workspace) == 0
