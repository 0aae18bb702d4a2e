"""Ranges as suggestions and as recipes, what a study is called, and the recipe that a search writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler

from histopipe.core.errors import ParamsError, SearchError
from histopipe.core.params import Params, parse_params, read_params
from histopipe.core.workspace import Workspace
from histopipe.experiments.search.ranges import distributions, own_values, rounded, with_values
from histopipe.experiments.search.study import storage_address, storage_errors_in_one_line, study_name
from histopipe.experiments.search.trial import result_metric
from histopipe.experiments.search.workspace import TrialWorkspace
from histopipe.networks.weights.record import Weights
from tests.builders.paths import ROOT

RANGES = {
    "optimizer.learning_rate": {"low": 0.001, "high": 0.1, "log": True},
    "model.dropout": {"low": 0.1, "high": 0.5},
    "batch_size": {"low": 16, "high": 128, "log": True},
    "early_stopping": {"low": 3, "high": 9},
    "imbalance": {"choices": ["none", "class_weight"]},
    "augmentation.vertical_flip": {"choices": [True, False]},
}


def searching(content: dict[str, Any], ranges: Any) -> Params:
    content["search"]["cancernet"] = ranges
    return parse_params(content)


def looked_at(params: Params) -> dict[str, BaseDistribution]:
    return distributions("cancernet", params.recipe("cancernet"), params.search["cancernet"])


def test_every_shipped_range_suits_its_recipe() -> None:
    params = read_params(ROOT / "params.yaml")
    assert "cancernet" in params.search
    for name, ranges in params.search.items():
        assert set(distributions(name, params.recipe(name), ranges)) == set(ranges)


def test_ranges_become_distributions_of_the_values_kind(content: dict[str, Any]) -> None:
    assert looked_at(searching(content, RANGES)) == {
        "optimizer.learning_rate": FloatDistribution(0.001, 0.1, log=True),
        "model.dropout": FloatDistribution(0.1, 0.5),
        "batch_size": IntDistribution(16, 128, log=True),
        "early_stopping": IntDistribution(3, 9),
        "imbalance": CategoricalDistribution(("none", "class_weight")),
        "augmentation.vertical_flip": CategoricalDistribution((True, False)),
    }


def test_suggested_values_make_a_recipe_and_leave_the_rest(content: dict[str, Any]) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    params = searching(content, RANGES)
    recipe = params.recipe("cancernet")
    study = optuna.create_study(sampler=RandomSampler(seed=1))
    for _ in range(20):
        values = rounded(study.ask(looked_at(params)).params, recipe, params.search["cancernet"])
        changed = with_values(recipe, values)
        assert own_values(changed) == own_values(recipe) | values
        assert 0.001 <= changed.optimizer.learning_rate <= 0.1  # type: ignore[union-attr]
        assert len(f"{changed.model['dropout']:.9g}") <= len("0.1234")


def test_rounding_stays_within_the_range(content: dict[str, Any]) -> None:
    params = searching(content, {"model.dropout": {"low": 0.123449, "high": 0.200051}})
    recipe, ranges = params.recipe("cancernet"), params.search["cancernet"]
    assert rounded({"model.dropout": 0.1234492}, recipe, ranges) == {"model.dropout": 0.123449}
    assert rounded({"model.dropout": 0.15555555}, recipe, ranges) == {"model.dropout": 0.1556}
    assert rounded({"model.dropout": 0.25}, recipe, ranges) == {"model.dropout": 0.25}  # the recipe's own stays


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({}, "search.cancernet is empty: give ranges"),
        ({"optimizer.learning_rat": {"low": 0.1, "high": 1}}, "did you mean 'optimizer.learning_rate'"),
        ({"model.dropuot": {"low": 0.1, "high": 0.5}}, "unknown key 'model.dropuot'; did you mean 'model.dropout'"),
        ({"published.dataset": {"choices": ["idc"]}}, "unknown key 'published.dataset'"),
        ({"optimizer": {"choices": ["adam"]}}, "unknown key 'optimizer'"),
        (
            {"label_smoothing": {"low": 0.0, "high": 1.0}},
            "search.cancernet.label_smoothing: 1.0 is not possible: Input should be less",
        ),
        ({"imbalance": {"choices": ["focal", "weigths"]}}, "search.cancernet.imbalance: 'weigths' is not possible"),
        ({"batch_size": {"low": 0, "high": 8}}, "search.cancernet.batch_size: 0 is not possible"),
        ({"epochs": {"low": 1, "high": 8.5}}, "search.cancernet.epochs: "),
    ],
)
def test_what_cannot_be_searched_is_one_clear_line(content: dict[str, Any], ranges: Any, message: str) -> None:
    params = searching(content, ranges)
    with pytest.raises(ParamsError, match=message.replace(".", r"\.")) as caught:
        looked_at(params)
    assert "\n" not in str(caught.value)


@pytest.fixture
def files(workspace: Workspace) -> Workspace:
    for path in (workspace.store("idc") / "index.parquet", workspace.split("idc")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"as it was")
    return workspace


def test_changed_data_recipe_or_ranges_start_another_study(files: Workspace, content: dict[str, Any]) -> None:
    def named() -> str:
        return study_name("idc", "cancernet", parse_params(content), files)

    names = [named()]
    assert names[0].startswith("idc-cancernet-")
    assert named() == names[0]
    content["published"]["cancernet"]["source"] = "somewhere"
    content["train"]["parallel"] = 2
    assert named() == names[0]  # decides nothing
    content["recipes"]["cancernet"]["batch_size"] = 64
    names.append(named())
    content["search"]["cancernet"]["model.dropout"]["low"] = 0.2
    names.append(named())
    content["quick"] = None
    names.append(named())
    files.split("idc").write_bytes(b"another")
    names.append(named())
    (files.store("idc") / "index.parquet").write_bytes(b"another")
    names.append(named())
    content["recipes"]["cancernet"]["weights"] = "mine.keras"
    for digest in ("one", "other"):
        record = Weights("mine.keras", "cancernet", "code", file="model.keras", sha256=digest)
        record.write(files.weights("cancernet"))
        names.append(named())
    assert len(set(names)) == 8


def test_changed_code_or_packages_start_another_study(
    files: Workspace, content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, names = tmp_path / "cancernet.py", set()
    monkeypatch.setattr("histopipe.training.checkpoint.network_code", lambda name: [code])
    for text, packages in (("one", "keras==3.14"), ("other", "keras==3.14"), ("other", "keras==3.15")):
        code.write_text(text)
        (files.root / "requirements.lock").write_text(packages)
        names.add(study_name("idc", "cancernet", parse_params(content), files))
    assert len(names) == 3


def test_studies_lie_in_the_checkout_unless_told_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)
    experiment = Workspace(tmp_path / ".dvc" / "tmp" / "exps" / "temp1")
    assert storage_address(experiment) == f"sqlite:///{tmp_path / 'optuna.db'}"
    monkeypatch.setenv("OPTUNA_STORAGE", "postgresql://studies")
    assert storage_address(experiment) == "postgresql://studies"


def test_a_damaged_storage_of_studies_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import optuna

    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)
    path = tmp_path / "optuna.db"
    for content in (b"no database" * 999, b"SQLite format 3\0" + bytes(5000)):
        path.write_bytes(content)
        with (
            pytest.raises(
                SearchError, match=r"optuna\.db can't be used \(.*\): restore it .* or move it away"
            ) as problem,
            storage_errors_in_one_line(Workspace(tmp_path)),
        ):
            optuna.storages.RDBStorage(storage_address(Workspace(tmp_path)))
        assert "\n" not in str(problem.value)
        assert path.read_bytes() == content


def test_a_trial_has_folders_and_a_run_of_its_own(tmp_path: Path) -> None:
    main, trials = Workspace(tmp_path), [TrialWorkspace(tmp_path, "idc-a-1", number, "parent") for number in (0, 1)]
    folders = {path for each in (main, *trials) for path in (each.checkpoint("idc", "a"), each.model("idc", "a"))}
    assert len(folders) == 6
    assert main.split("idc") == trials[0].split("idc")
    assert main.run_tags == {}
    assert trials[1].run_tags["mlflow.parentRunId"] == "parent"
    assert trials[0].run_tags["variant"] != trials[1].run_tags["variant"]


def test_the_score_is_of_the_weights_that_are_kept(content: dict[str, Any]) -> None:
    recipe = parse_params(content).recipe("cancernet")
    assert result_metric([0.6, 0.9, 0.8], recipe) == 0.8
    assert result_metric([0.6, 0.9, 0.8], recipe.model_copy(update={"keep": "best"})) == 0.9
    assert result_metric([0.6, 0.9, 0.8], recipe.model_copy(update={"keep": "average"})) == 0.8
