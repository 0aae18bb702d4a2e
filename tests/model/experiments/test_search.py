"""Trials as real trainings: resumed in the same run, pruned, failed, and written down as a recipe."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
import yaml
from mlflow.entities import Run

from histopipe.core.errors import HistopipeError, SearchError
from histopipe.core.params import parse_params
from histopipe.core.workspace import Workspace
from histopipe.data.splitting.stage import split
from histopipe.experiments.search.mlflow_run import parent_run
from histopipe.experiments.search.stage import search
from histopipe.experiments.search.study import (
    ATTEMPTS,
    STARTUP_TRIALS,
    Search,
    count_trials,
    next_trial,
    open_search,
    suggested,
)
from histopipe.experiments.search.trial import run_trial
from histopipe.experiments.search.winner import conclude
from histopipe.experiments.search.workspace import TrialWorkspace
from histopipe.ingest.stage import ingest
from histopipe.tracking.runs import training_run
from histopipe.tracking.stores import current_client, prepare_experiment
from histopipe.training import loop as training_loop
from tests.builders.archives import idc_members, write_zip

RATE = "optimizer.learning_rate"


@pytest.fixture
def ready(workspace: Workspace, content: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A small data set, ingested and split."""
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)
    write_zip(workspace.raw("idc") / "archive.zip", idc_members(cases=9, patches=8))
    ingest("idc", parse_params(content), workspace)
    split("idc", parse_params(content), workspace)
    return workspace


@pytest.fixture
def small(content: dict[str, Any]) -> Any:
    content["quick"] = {"max_epochs": 3}
    content["recipes"]["cancernet"]["model"]["image_size"] = 16
    content["search"]["cancernet"] = {RATE: {"low": 0.001, "high": 0.1, "log": True}}
    return content


def run(small: dict[str, Any], ready: Workspace) -> Any:
    return run_trial("idc", "cancernet", parse_params(small), ready)


def opened(small: dict[str, Any], ready: Workspace) -> Search:
    return open_search("idc", "cancernet", parse_params(small), ready)


def runs(ready: Workspace) -> dict[str, Run]:
    experiment = prepare_experiment(ready, "idc")
    found = current_client().search_runs([experiment])
    assert len({each.info.run_name for each in found}) == len(found)
    return {str(each.info.run_name): each for each in found}


def states(search: Search) -> list[str]:
    return [trial.state.name for trial in search.study.trials]


def test_a_killed_trial_goes_on_with_its_values_in_its_run_and_the_best_becomes_a_recipe(
    ready: Workspace, small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real_epoch, ran = training_loop._train_epoch, []

    def dies_in_the_third(*arguments: Any) -> dict[str, float]:
        if arguments[-1] == 2:
            raise KeyboardInterrupt
        return real_epoch(*arguments)

    assert run(small, ready).values == {RATE: 0.01}  # first the recipe as it stands
    monkeypatch.setattr(training_loop, "_train_epoch", dies_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        run(small, ready)
    search = opened(small, ready)
    assert states(search) == ["COMPLETE", "RUNNING"]
    left, run_id = search.study.trials[1], runs(ready)["cancernet trial 1"].info.run_id
    assert sorted(left.intermediate_values) == [1, 2]

    monkeypatch.setattr(training_loop, "_train_epoch", lambda *a: (ran.append(a[-1]), real_epoch(*a))[1])
    resumed = run(small, ready)
    assert ran == [2]
    assert resumed.number == 1
    assert resumed.values[RATE] == pytest.approx(left.params[RATE], rel=1e-3)
    search = opened(small, ready)
    assert states(search) == ["COMPLETE", "COMPLETE"]
    assert count_trials(search) == 2

    winner = conclude(search)
    found = runs(ready)
    assert set(found) == {"search cancernet", "cancernet trial 0", "cancernet trial 1"}
    assert {each.info.status for each in found.values()} == {"FINISHED"}
    assert found["cancernet trial 1"].info.run_id == run_id
    parent = found["search cancernet"]
    for number in (0, 1):
        trial = found[f"cancernet trial {number}"]
        assert trial.data.tags["mlflow.parentRunId"] == parent.info.run_id
        logged = current_client().get_metric_history(trial.info.run_id, "validation/roc_auc")
        assert [metric.step for metric in logged] == [1, 2, 3]
    assert parent.data.metrics["best/validation/roc_auc"] == winner.value == search.study.best_value
    assert float(parent.data.tags[f"best.{RATE}"]) == winner.values[RATE]
    artifacts = {item.path for item in current_client().list_artifacts(parent.info.run_id, "search")}
    assert artifacts == {"search/recipe.yaml", "search/search.png", "search/trials.csv"}
    assert not list(ready.root.glob(".checkpoints/searches/**/checkpoint.npz"))
    check_recipe(ready, small, winner)


def check_recipe(ready: Workspace, small: dict[str, Any], winner: Any) -> None:
    """The written block, put into params.yaml, is the recipe that was trained."""
    text = (ready.search("idc", "cancernet") / "recipe.yaml").read_text()
    block = yaml.safe_load(text)["recipes"]
    small["recipes"] |= block
    small["architectures"] = ["cancernet", "cancernet_tuned"]
    tuned = parse_params(small).recipe("cancernet_tuned")
    own = parse_params(small).recipe("cancernet")
    rate = {"optimizer": own.optimizer.model_copy(update={"learning_rate": winner.values[RATE]})}  # type: ignore[union-attr]
    assert tuned == own.model_copy(update={"architecture": "cancernet", **rate})
    assert "under the caps of `quick`: max_epochs 3" in text
    assert f"ROC AUC {winner.value:.4f} on validation" in text


def test_a_main_run_and_a_search_are_not_taken_for_one_another(ready: Workspace, small: dict[str, Any]) -> None:
    search = opened(small, ready)
    parent = parent_run(search)
    trial = TrialWorkspace(ready.root, search.study.study_name, 0, parent)
    own = {"training_key": "trial"}
    with training_run(trial, "idc", "cancernet", None, own) as left:
        pass
    current_client().update_run(left, status="RUNNING")  # as after a kill
    with training_run(ready, "idc", "cancernet", None, {"training_key": "main"}) as main:
        assert {each.info.status for each in runs(ready).values()} == {"RUNNING"}  # it closes neither of the others
    with training_run(trial, "idc", "cancernet", None, own) as resumed:
        assert resumed == left != main
    assert set(runs(ready)) == {"search cancernet", "cancernet trial 0", "cancernet"}


def test_a_hopeless_trial_is_pruned(ready: Workspace, small: dict[str, Any]) -> None:
    search = opened(small, ready)
    for _ in range(STARTUP_TRIALS):
        perfect = optuna.trial.create_trial(
            params={RATE: 0.05}, distributions=dict(search.ranges), value=1.0, intermediate_values={1: 1.0, 2: 1.0}
        )
        search.study.add_trial(perfect)
    assert run(small, ready).text == "pruned"
    assert states(search)[0] == "PRUNED"
    assert list(search.study.trials[0].intermediate_values) == [1]
    pruned = runs(ready)["cancernet trial 0"]
    assert (pruned.info.status, pruned.data.tags["pruned"]) == ("FINISHED", "true")
    assert count_trials(search) == STARTUP_TRIALS + 1


def test_a_diverging_trial_fails_and_the_search_goes_on(ready: Workspace, small: dict[str, Any]) -> None:
    small["quick"] = {"max_epochs": 1}
    small["search"]["cancernet"] = {RATE: {"choices": [1e30, 2e30]}}
    with pytest.raises(SearchError, match="no trial was completed: run more, or change"):
        conclude(opened(small, ready))
    assert "the loss became nan" in run(small, ready).text.lower()
    search = opened(small, ready)
    assert states(search) == ["FAIL"]
    assert count_trials(search) == 0
    failed = runs(ready)["cancernet trial 0"]
    assert failed.info.status == "FAILED"
    assert "learning rate" in failed.data.tags["failure"]
    with pytest.raises(SearchError, match="the last that failed: idc cancernet: the loss became nan"):
        conclude(search)
    with next_trial(search) as trial:
        assert trial.number == 1


def searched(small: dict[str, Any], ready: Workspace, wanted: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """States of all trials after a search, with its trials in this process."""
    monkeypatch.setattr("histopipe.experiments.search.stage._run_trial", lambda *_: run(small, ready))
    small["quick"] = {"max_epochs": 1}
    search("idc", "cancernet", wanted, None, parse_params(small), ready)
    return states(opened(small, ready))


def test_failed_trials_are_made_up_for(
    ready: Workspace, small: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    small["search"]["cancernet"] = {RATE: {"choices": [0.01, 0.02, 1e30]}}
    found = searched(small, ready, 3, monkeypatch)
    assert "FAIL" in found
    assert found.count("COMPLETE") == 3
    assert "lacking" not in caplog.text


def test_a_search_that_lacks_trials_in_the_end_says_so(
    ready: Workspace, small: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    small["search"]["cancernet"] = {RATE: {"choices": [0.01, *(1e30 * times for times in range(1, 99))]}}
    assert searched(small, ready, 2, monkeypatch) == ["COMPLETE", "FAIL", "FAIL", "FAIL"]
    said = "1 of 2 trials are missing, since others failed: run the search again, or narrow search.cancernet"
    assert f"idc cancernet: {said}" in caplog.text


def test_values_that_no_network_can_have_fail_their_trial_alone(ready: Workspace, small: dict[str, Any]) -> None:
    small["search"]["cancernet"] = {"model.dropout": {"choices": [1.5]}}
    assert run(small, ready).text.startswith("failed: cancernet can't be built with")
    assert runs(ready)["cancernet trial 0"].info.status == "FAILED"


def test_a_trial_that_kills_its_process_is_given_up(
    ready: Workspace, small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: Any) -> dict[str, float]:
        raise KeyboardInterrupt

    monkeypatch.setattr(training_loop, "_train_epoch", dies)
    for _ in range(ATTEMPTS + 1):
        with pytest.raises(KeyboardInterrupt):
            run(small, ready)
    search = opened(small, ready)
    assert states(search) == ["FAIL", "RUNNING"]
    assert "without finishing an epoch" in search.study.trials[0].user_attrs["reason"]


def test_trials_draw_other_values_and_the_same_ones_again(
    ready: Workspace, small: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw() -> list[float]:
        search = opened(small, ready)
        values = []
        for _ in range(4):
            with next_trial(search) as trial:
                values.append(float(suggested(search, trial)[RATE]))
                search.study.tell(trial, 0.5)
        return values

    first = draw()
    assert len(set(first)) == 4
    monkeypatch.setenv("OPTUNA_STORAGE", f"sqlite:///{tmp_path_factory.mktemp('other')}/optuna.db")
    assert draw() == first


def test_what_a_search_needs_is_asked_for_in_one_line(workspace: Workspace, small: dict[str, Any]) -> None:
    with pytest.raises(HistopipeError, match="dvc repro") as caught:
        run(small, workspace)
    assert "\n" not in str(caught.value)
