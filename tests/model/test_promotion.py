"""Promotion against a real embedded registry, with real networks of known strength."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import keras
import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from mlflow import MlflowClient

from benchmarks.checkouts import NO_FLOORS
from histopipe.cli import main
from histopipe.core.errors import BusyError, PromotionError, TrackingUnreachableError
from histopipe.core.files import file_digest, read_json, write_json
from histopipe.core.params import Params, parse_params
from histopipe.core.workspace import Workspace
from histopipe.data.store import INDEX_FILE, REPORT_FILE, shard_name
from histopipe.evaluation import mlflow_run
from histopipe.evaluation.explanation.stage import UNEXPLAINED
from histopipe.evaluation.stage import evaluate
from histopipe.networks.architectures.blocks import patch_input, probability, rescale
from histopipe.promotion.champion import champion_probabilities, read_champion
from histopipe.promotion.stage import promote, rollback
from histopipe.promotion.summary import promotion_summary
from histopipe.tracking.ledger import count_looks, number_among_kind, read_looks, record_look
from histopipe.tracking.provenance import Provenance
from histopipe.tracking.registry import Registry
from histopipe.training.recipe import recipe_digest
from tests.builders.paths import ROOT
from tests.builders.registry import NAME, aliases, client, tags

CASES, PATCHES = 36, 16
CHANNELS = {"better": (0, 45), "good": (1, 22), "worse": (2, 6)}  # what each looks at, and how much darker IDC is there
WRITES = (
    "create_registered_model",
    "create_model_version",
    "update_model_version",
    "set_model_version_tag",
    "delete_model_version_tag",
    "set_registered_model_alias",
    "delete_registered_model_alias",
    "log_artifact",
)


def content(*architectures: str, **changes: Any) -> dict[str, Any]:
    recipe = {"architecture": "cancernet", "optimizer": {"name": "adam", "learning_rate": 0.001}}
    return {
        "datasets": ["idc"],
        "architectures": list(architectures),
        "idc": {},
        "evaluate": {"resamples": 200},
        "promotion": {"min_sensitivity": 0.3, "min_specificity": 0, "max_calibration_error": 0.3, "min_cases": 6},
        "recipes": dict.fromkeys(CHANNELS, recipe),
    } | changes


def asked(*architectures: str, **changes: Any) -> Params:
    return parse_params(content(*architectures, **changes))


def make_workspace(root: Path) -> Workspace:
    """A store whose colour channels tell the classes apart well, a little and hardly; and a network for each."""
    workspace = Workspace(root)
    workspace.params.write_text(yaml.safe_dump(content("good")))
    random = np.random.default_rng(0)
    case, label = np.repeat(np.arange(CASES), PATCHES), random.integers(0, 2, CASES * PATCHES)
    darker = np.array([drop for _, drop in CHANNELS.values()])
    level = 150 - label[:, None] * darker + random.normal(0, 25, (len(case), 3))
    patches = np.clip(level[:, None, None, :] + random.normal(0, 5, (len(case), 12, 12, 3)), 0, 255).astype(np.uint8)
    write_store(workspace.store("idc"), patches, case, label)
    workspace.split("idc").parent.mkdir(parents=True)
    rows = [f"{number:03},{('train', 'validation', 'test')[number % 3]}" for number in range(CASES)]
    workspace.split("idc").write_text("\n".join(["case_id,split", *rows]) + "\n")
    for number, name in enumerate(CHANNELS):
        write_training(workspace, name, str(number) * 32)
    return workspace


def write_store(folder: Path, patches: np.ndarray, case: np.ndarray, label: np.ndarray) -> None:
    folder.mkdir(parents=True)
    np.save(folder / shard_name(0), patches)
    index = pd.DataFrame({"file": [f"{number}.png" for number in range(len(case))]})
    index["case_id"] = [f"{number:03}" for number in case]
    index["label"], index["shard"], index["row"] = label, 0, np.arange(len(case))
    index["digest"] = [f"{number:032x}" for number in range(len(case))]
    index.to_parquet(folder / INDEX_FILE, index=False)
    counts = {"patches": len(case), "cases": CASES, "positive": int(label.sum()), "undersized": 0}
    odd = {"set_aside": {"second copy": {"count": 3, "bad": False}}, "same_pixels_in_two_cases": 0}
    write_json(folder / REPORT_FILE, {"classes": ["benign", "IDC"], "patch_size": [12, 12]} | counts | odd)


def write_training(workspace: Workspace, name: str, run_id: str) -> None:
    folder = workspace.model("idc", name)
    folder.mkdir(parents=True, exist_ok=True)
    channel_network(CHANNELS[name][0]).save(folder / "model.keras")
    cases = pd.read_csv(workspace.split("idc"), dtype=str)
    record = {
        "run_id": run_id,
        "dataset": "idc",
        "recipe_digest": recipe_digest(asked("good"), name),
        "split_digest": file_digest(workspace.split("idc")),
        "split_scheme": "grouped",
        "quick": {"max_epochs": 3},
        "leaky": False,
        "epochs": 3,
        "parameters": 4,
        "train_cases": cases["case_id"][cases["split"] == "train"].tolist(),
        "validation_cases": cases["case_id"][cases["split"] == "validation"].tolist(),
    }
    write_json(folder / "run.json", record)


def channel_network(channel: int) -> keras.Model:
    """Calls dark patches positive, by one colour channel alone."""
    patches = patch_input()
    output = probability(keras.layers.GlobalAveragePooling2D()(rescale(patches, 6)))
    network = keras.Model(patches, output)
    kernel = np.zeros((3, 1), np.float32)
    kernel[channel] = -20.0
    network.get_layer("logit").set_weights([kernel, np.array([11.0], np.float32)])
    return network


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = make_workspace(tmp_path_factory.mktemp("evaluated"))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for name in CHANNELS:
            evaluate("idc", name, asked(name), workspace)
    explanation = read_json(workspace.evaluation("idc", name) / "explanation.json")
    assert explanation["verdict"] == UNEXPLAINED  # these networks see means of colours only; it stopped nothing
    return workspace


@pytest.fixture
def workspace(evaluated: Workspace, tmp_path: Path) -> Workspace:
    """A copy for each test, with a registry of its own; the runs' artifacts stay where they are."""
    root = tmp_path / "checkout"
    shutil.copytree(evaluated.root, root, ignore=shutil.ignore_patterns("mlartifacts"))
    return Workspace(root)


def versions(workspace: Workspace) -> int:
    return len(client(workspace).search_model_versions(f"name = '{NAME}'"))


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


def kept(workspace: Workspace, number: str, name: str, scratch: Path) -> Path:
    """A file that a version's run keeps for it."""
    held = tags(workspace, number)
    return Path(client(workspace).download_artifacts(held["run_id"], f"{held['kept']}/{name}", str(scratch)))


def test_promoted_again_nothing_changes(workspace: Workspace) -> None:
    promote("idc", asked("good"), workspace)
    before = tags(workspace, "1")
    verdict = promote("idc", asked("good"), workspace)
    assert not verdict.changed
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


def test_a_rollback_returns_and_stays_until_it_is_asked_otherwise(workspace: Workspace) -> None:
    promote("idc", asked("good"), workspace)
    promote("idc", asked("better"), workspace)
    assert rollback("idc", workspace) == ("2", "1")
    assert aliases(workspace)["champion"] == "1"
    assert not promote("idc", asked("better"), workspace).promoted
    assert "rolled back" in tags(workspace, "2")["reasons"]
    assert aliases(workspace) == {"champion": "1", "challenger": "2"}
    assert promote("idc", asked("better"), workspace, again=True).promoted
    assert aliases(workspace) == {"champion": "2"}
    assert rollback("idc", workspace) == ("2", "1")
    with pytest.raises(PromotionError, match="nothing to go back to"):
        rollback("idc", workspace)
    assert aliases(workspace)["champion"] == "1"


def test_a_rollback_does_not_return_to_what_was_rolled_back(workspace: Workspace) -> None:
    """The first model was champion before and after the second: going back twice must not go round in a circle."""
    lenient = {"promotion": NO_FLOORS | {"margin": 0.9}}
    promote("idc", asked("good", **lenient), workspace)
    promote("idc", asked("better", **lenient), workspace)
    promote("idc", asked("good", **lenient), workspace)
    assert aliases(workspace)["champion"] == "1"
    assert rollback("idc", workspace) == ("1", "2")
    with pytest.raises(PromotionError, match="nothing to go back to"):
        rollback("idc", workspace)


def test_with_nothing_to_go_back_to_the_command_says_so_in_one_line(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace.root)
    for said in ("has no champion to roll back", "nothing to go back to"):
        done = CliRunner().invoke(main, ["rollback", "idc"])
        assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
        assert said in done.stderr
        assert CliRunner().invoke(main, ["promote", "idc"]).exit_code == 0


@pytest.mark.parametrize("mark", [{"leaky": True}, {"split_scheme": "random"}])
def test_a_leaky_model_is_never_promoted(workspace: Workspace, mark: dict[str, Any]) -> None:
    path = workspace.model("idc", "better") / "run.json"
    write_json(path, read_json(path) | mark)
    assert not promote("idc", asked("better"), workspace, again=True).promoted
    assert "cases shared between splits: yes" in tags(workspace, "1")["reasons"]
    assert aliases(workspace) == {"challenger": "1"}


def test_a_run_that_is_tagged_leaky_is_never_promoted(workspace: Workspace) -> None:
    run_id = read_json(workspace.evaluation("idc", "better") / "metrics.json")["run_id"]
    client(workspace).set_tag(run_id, "leaky", "true")
    assert not promote("idc", asked("better"), workspace).promoted


def test_the_gate_works_when_the_champions_files_are_gone(workspace: Workspace) -> None:
    promote("idc", asked("good"), workspace)
    for folder in (workspace.model("idc", "good"), workspace.evaluation("idc", "good")):
        shutil.rmtree(folder)
    assert promote("idc", asked("better"), workspace).promoted
    assert tags(workspace, "2")["gate.cases.measured"] == "12"


def test_cases_that_the_champion_saw_do_not_count(workspace: Workspace) -> None:
    """As when another seed dealt the cases out anew: of 12 test cases the champion trained on 8."""
    path = workspace.model("idc", "good") / "run.json"
    record = read_json(path)
    test = [f"{number:03}" for number in range(2, CASES, 3)]
    write_json(path, record | {"train_cases": [*record["train_cases"], *test[:8]]})
    promote("idc", asked("good", promotion=NO_FLOORS), workspace)
    assert not promote("idc", asked("better"), workspace).promoted
    assert "neither model has seen: 4, wanted at least 6" in tags(workspace, "2")["reasons"]


@contextmanager
def damaged(workspace: Workspace, name: str) -> Iterator[None]:
    """Inside, the network that was logged for an architecture has lost its end."""
    run = client(workspace).get_run(read_json(workspace.evaluation("idc", name) / "metrics.json")["run_id"])
    logged = client(workspace).get_logged_model(run.data.tags["served_model"])
    (file,) = Path(logged.artifact_location.removeprefix("file://")).rglob("model.keras")
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    try:
        yield
    finally:
        file.write_bytes(whole)


def test_a_model_whose_network_is_damaged_does_not_become_champion(workspace: Workspace) -> None:
    promote("idc", asked("good"), workspace)
    said = r"version 2 of histopipe-idc can't be served.*not those that were logged"
    with damaged(workspace, "better"), pytest.raises(PromotionError, match=said):
        promote("idc", asked("better"), workspace)
    assert aliases(workspace) == {"champion": "1"}
    assert promote("idc", asked("better"), workspace).promoted
    with damaged(workspace, "good"), pytest.raises(PromotionError, match="version 1 of histopipe-idc can't be served"):
        rollback("idc", workspace)
    assert (aliases(workspace), tags(workspace, "2")["verdict"]) == ({"champion": "2"}, "promoted")


def test_cases_that_the_champion_saw_under_other_ids_do_not_count(workspace: Workspace) -> None:
    """Trained elsewhere: of 12 test cases the champion knows two by its own ids, which the digests tell."""
    index = pd.read_parquet(workspace.store("idc") / INDEX_FILE)
    test = [f"{number:03}" for number in range(2, CASES, 3)]
    seen = sorted(index.loc[index["case_id"].isin(test[:2]), "digest"])
    path = workspace.model("idc", "good") / "run.json"
    labels = index.set_index("digest").label[seen]
    data = Provenance("idc", "archive", "elsewhere.zip", ("benign", "IDC"), capped=True, labels=labels)
    record = {"train_cases": ["ours1", "ours2"], "validation_cases": ["ours3"], "data": data.as_json()}
    write_json(path, read_json(path) | record)
    promote("idc", asked("good"), workspace)
    gates = {gate.name: gate for gate in promote("idc", asked("better"), workspace).gates}
    assert gates["cases"].measured == 10


def test_two_ids_of_one_slide_are_one_test_case(workspace: Workspace) -> None:
    path = workspace.store("idc") / INDEX_FILE
    index = pd.read_parquet(path)
    index.loc[index["case_id"] == "005", "digest"] = index.loc[index["case_id"] == "002", "digest"].to_numpy()
    index.to_parquet(path, index=False)
    for name in ("good", "better"):
        evaluate("idc", name, asked(name), workspace)
    assert read_json(workspace.evaluation("idc", "good") / "metrics.json")["cases"] == 11
    assert len(pd.read_csv(workspace.evaluation("idc", "good") / "cases.csv")) == 12
    for name in ("good", "better"):
        gates = {gate.name: gate for gate in promote("idc", asked(name), workspace).gates}
        assert gates["cases"].measured == 11


def test_cases_behind_a_models_weights_do_not_count(workspace: Workspace) -> None:
    """As when it was fine-tuned from a model that was trained on another split."""
    path = workspace.model("idc", "good") / "run.json"
    test = [f"{number:03}" for number in range(2, CASES, 3)]
    write_json(path, read_json(path) | {"seen_before": {"idc": test[:8], "malaria": test}})
    assert not promote("idc", asked("good"), workspace).promoted
    assert "seen: 4, wanted at least 6" in tags(workspace, "1")["reasons"]


def test_what_the_champion_never_predicted_is_predicted_anew(workspace: Workspace) -> None:
    promote("idc", asked("good"), workspace)
    champion = read_champion(client(workspace).get_model_version(NAME, "1"), client(workspace))
    index = pd.read_parquet(workspace.store("idc") / INDEX_FILE)
    patches = index[index["case_id"].astype(int) % 3 == 2].rename_axis("place").reset_index()
    patches = patches.assign(row=patches["place"])[["file", "digest", "row"]]
    logged = champion_probabilities(champion, patches, workspace.store("idc"))
    champion.logged.drop(champion.logged.index[:5], inplace=True)
    anew = champion_probabilities(champion, patches, workspace.store("idc"))
    assert not np.array_equal(anew, logged), "rounded as the served network rounds"
    np.testing.assert_allclose(anew, logged, atol=1e-5)


def test_other_pixels_under_the_same_names_are_predicted_anew(workspace: Workspace) -> None:
    promote("idc", asked("good"), workspace)
    champion = read_champion(client(workspace).get_model_version(NAME, "1"), client(workspace))
    patches = champion.logged.assign(digest="changed", row=np.arange(len(champion.logged)))
    found = champion_probabilities(champion, patches, workspace.store("idc"))
    assert np.abs(found - champion.logged["probability"].to_numpy()).max() > 0.1


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


@pytest.mark.parametrize(("torn", "rule"), [("run.json", "f1"), ("test_predictions.parquet", "sensitivity>=0.8")])
def test_a_kill_within_a_copy_leaves_the_champions_own_record_whole(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, torn: str, rule: str
) -> None:
    """The candidate is the champion's run under another threshold, one that no other test has already logged."""
    promote("idc", asked("good"), workspace)
    changed = asked("good", evaluate={"resamples": 200, "threshold": rule})
    evaluate("idc", "good", changed, workspace)
    real = MlflowClient.log_artifact

    def half(registry: MlflowClient, run_id: str, path: str, folder: str) -> None:
        if Path(path).name == torn:
            Path(path).write_bytes(Path(path).read_bytes()[:40])
        real(registry, run_id, path, folder)
        if Path(path).name == torn:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(MlflowClient, "log_artifact", half)
        promote("idc", changed, workspace)
    assert not promote("idc", asked("worse"), workspace).promoted, "was judged against the champion"
    assert promote("idc", changed, workspace).promoted
    assert promote("idc", asked("better"), workspace).promoted, "and so is what carried on"


def test_a_champion_of_before_versions_had_their_own_folders_is_still_known(workspace: Workspace) -> None:
    promote("idc", asked("good"), workspace)
    held = tags(workspace, "1")
    root = client(workspace).get_run(held["run_id"]).info.artifact_uri.removeprefix("file://")
    for path in Path(root, held["kept"]).iterdir():
        path.rename(Path(root, "promotion", path.name))
    with pytest.raises(PromotionError, match=f"doesn't hold {held['kept']}/run.json"):
        promote("idc", asked("better"), workspace)
    client(workspace).delete_model_version_tag(NAME, "1", "kept")
    assert promote("idc", asked("better"), workspace).promoted


def test_the_champions_run_gets_the_report_of_a_later_comparison_too(
    workspace: Workspace, tmp_path: Path, killer: Callable[[int | None], list[str]]
) -> None:
    page = workspace.report("idc") / "index.html"
    page.parent.mkdir(parents=True)
    for text in ("first", "second"):
        page.write_text(text)
        promote("idc", asked("good"), workspace)
        run_id = tags(workspace, "1")["run_id"]
        assert (
            Path(client(workspace).download_artifacts(run_id, "report/index.html", str(tmp_path))).read_text() == text
        )
    written = killer(None)
    promote("idc", asked("good"), workspace)
    assert written == [], "what hasn't changed isn't logged again"
    client(workspace).delete_run(run_id)
    assert not promote("idc", asked("good"), workspace).changed


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


def test_a_champion_that_nothing_is_known_of_is_not_taken_for_granted(workspace: Workspace) -> None:
    """As when somebody registered a model by hand and gave it the alias."""
    promote("idc", asked("good"), workspace)
    source = client(workspace).get_model_version(NAME, "1").source
    run = client(workspace).create_run(client(workspace).get_experiment_by_name(NAME).experiment_id)
    client(workspace).create_model_version(NAME, source, run.info.run_id)
    client(workspace).set_registered_model_alias(NAME, "champion", "2")
    with pytest.raises(PromotionError, match="so the cases that it was trained on are unknown"):
        promote("idc", asked("better"), workspace)
    assert aliases(workspace) == {"champion": "2"}


def test_a_champion_without_a_run_is_not_taken_for_granted(workspace: Workspace) -> None:
    promote("idc", asked("good"), workspace)
    source = str(client(workspace).get_model_version(NAME, "1").source)
    logged = client(workspace).get_logged_model(source.removeprefix("models:/"))
    client(workspace).create_model_version(NAME, logged.artifact_location)
    client(workspace).set_registered_model_alias(NAME, "champion", "2")
    with pytest.raises(PromotionError, match="so the cases that it was trained on are unknown"):
        promote("idc", asked("better"), workspace)


def registered(workspace: Workspace) -> dict[str, str]:
    """Tags of the registered model itself."""
    return dict(client(workspace).get_registered_model(NAME).tags)


def test_the_anchor_is_the_first_champion_until_a_command_moves_it(workspace: Workspace) -> None:
    first = promote("idc", asked("good"), workspace)
    assert registered(workspace)["anchor"] == "1"
    assert "version 1 is the anchor from now on" in str(first)
    assert "anchor" not in str(promote("idc", asked("good"), workspace))
    assert promote("idc", asked("better"), workspace).promoted
    assert registered(workspace)["anchor"] == "1"
    assert tags(workspace, "2")["gate.anchor"] == "passed"
    assert "The anchor is version 1" in promotion_summary("idc", workspace)
    moved = promote("idc", asked("better"), workspace, move_anchor=True)
    assert "version 2 is the anchor from now on, instead of version 1" in str(moved)
    assert registered(workspace)["anchor"] == "2"


def test_a_model_as_good_as_the_champion_is_refused_where_it_lies_too_far_below_the_anchor(
    workspace: Workspace,
) -> None:
    """Stand at the end of a chain of champions that each lost what a single promotion may lose."""
    promote("idc", asked("better"), workspace)
    assert promote("idc", asked("good", promotion=NO_FLOORS | {"margin": 0.9}), workspace).promoted
    changed = asked("good", evaluate={"resamples": 200, "threshold": "sensitivity>=0.7"})
    evaluate("idc", "good", changed, workspace)
    refused = promote("idc", changed, workspace)
    assert [gate.name for gate in refused.gates if not gate.passed] == ["anchor"]
    assert "ROC AUC less the anchor's, lower end of its interval: -0." in str(refused)
    assert aliases(workspace) == {"champion": "2", "challenger": "3"}
    assert promote("idc", changed, workspace, move_anchor=True).promoted


def test_a_champion_of_before_there_were_anchors_is_its_own_and_says_so_once(workspace: Workspace) -> None:
    promote("idc", asked("good"), workspace)
    for key in registered(workspace):
        client(workspace).delete_registered_model_tag(NAME, key)
    for number in range(2):
        said = "version 1 was champion without an anchor, and is the anchor from now on"
        assert (said in str(promote("idc", asked("good"), workspace))) is (number == 0)
    assert registered(workspace)["anchor"] == "1"
    promote("idc", asked("better"), workspace)
    assert tags(workspace, "2")["looks.judged"] == "2", "a version that was judged before the ledger counts"


@pytest.mark.parametrize("lost", ["deleted", "seen"])
def test_an_anchor_that_nothing_can_be_compared_with_refuses_and_names_the_remedy(
    workspace: Workspace, lost: str
) -> None:
    """Version 1 was trained on all test cases, as before they were dealt anew; it is refused, then made the anchor."""
    path = workspace.model("idc", "worse") / "run.json"
    record, test = read_json(path), [f"{number:03}" for number in range(2, CASES, 3)]
    write_json(path, record | {"train_cases": [*record["train_cases"], *test]})
    assert not promote("idc", asked("worse"), workspace).promoted
    client(workspace).set_registered_model_tag(NAME, "anchor", "1" if lost == "seen" else "7")
    refused = promote("idc", asked("good"), workspace)
    assert [gate.name for gate in refused.gates if not gate.passed] == ["anchor"]
    why = {"seen": "and this model have no test case in common", "deleted": "was deleted from the registry"}[lost]
    assert why in refused.gates[-1].reason
    assert "`histopipe promote idc --move-anchor`" in refused.gates[-1].reason
    assert promote("idc", asked("good"), workspace, move_anchor=True).promoted
    assert registered(workspace)["anchor"] == "2"


def test_a_rollback_leaves_the_anchor_unless_it_is_what_was_taken_back(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote("idc", asked("good"), workspace)
    promote("idc", asked("better"), workspace)
    monkeypatch.chdir(workspace.root)
    done = CliRunner().invoke(main, ["rollback", "idc"])
    assert "the anchor is version 1" in done.output
    assert promote("idc", asked("better"), workspace, again=True).promoted
    promote("idc", asked("better"), workspace, move_anchor=True)
    rollback("idc", workspace)
    assert registered(workspace)["anchor"] == "1"


def test_looks_at_the_test_cases_are_counted_once_each_and_outlive_their_versions(
    workspace: Workspace, tmp_path: Path
) -> None:
    for name in ("good", "worse", "worse", "better"):
        promote("idc", asked(name), workspace)
    assert [tags(workspace, number)["looks.judged"] for number in "123"] == ["1", "2", "3"]
    assert [tags(workspace, number)["looks.compared"] for number in "123"] == ["0", "1", "2"]
    assert tags(workspace, "3")["looks.trainings"] == "3"
    card = kept(workspace, "3", "model_card.md", tmp_path).read_text()
    assert "This was look 3 at these 12 test cases (promotions judged on them, this one included; 3 trainings" in card
    assert "biased upwards" in card
    client(workspace).delete_model_version(NAME, "2")
    changed = asked("better", evaluate={"resamples": 200, "threshold": "f1"})
    evaluate("idc", "better", changed, workspace)
    promote("idc", changed, workspace)
    assert tags(workspace, "4")["looks.judged"] == "4"


def test_cases_that_came_later_have_fewer_looks_behind_them(workspace: Workspace) -> None:
    registry = Registry(NAME, client(workspace))
    old, new = [f"old{number}" for number in range(700)], ["new1", "new2"]
    record_look(registry, "first", [], old, ["run1"])
    record_look(registry, "second", ["1"], old, ["run1", "run2"])
    look, earlier = record_look(registry, "third", ["1"], old[:10] + new, ["run3"])
    counts = count_looks(look, earlier)
    assert (counts.cases, counts.judged, counts.compared, counts.trainings, counts.fresh) == (12, 3, 2, 3, 2)
    assert number_among_kind(look, earlier) == 2
    fresh, before = record_look(registry, "third", ["1"], new, ["run3"])
    assert number_among_kind(fresh, before) == 1
    again, _ = record_look(registry, "second", ["1"], old, ["run1", "run2"])
    assert again.at < look.at, "the same model against the same champion is the same look"


def test_a_machine_whose_clock_is_behind_counts_the_looks_of_others(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) - timedelta(minutes=30)

    registry = Registry(NAME, client(workspace))
    for number in range(3):
        record_look(registry, f"model{number}", ["1"], ["a", "b"], [])
    monkeypatch.setattr("histopipe.tracking.ledger.datetime", Late)
    late, earlier = record_look(registry, "late", ["1"], ["a"], [])
    assert number_among_kind(late, earlier) == 4
    monkeypatch.undo()
    last, earlier = record_look(registry, "last", ["1"], ["a"], [])
    assert number_among_kind(last, earlier) == 5


def test_several_writers_lose_no_look(workspace: Workspace) -> None:
    registries = [Registry(NAME, client(workspace)) for _ in range(6)]
    registries[0].require_model()
    with ThreadPoolExecutor(6) as pool:
        written = [
            pool.submit(record_look, each, f"model{number}", ["1"], ["a", "b"], [])
            for number, each in enumerate(registries)
        ]
    for look in written:
        look.result()
    looks = read_looks(registries[0].model_tags())
    assert {look.model for look in looks} == {f"model{number}" for number in range(6)}
    last, earlier = record_look(registries[0], "last", ["1"], ["b"], [])
    assert number_among_kind(last, earlier) == 7


def test_weights_that_nobody_knows_the_cases_of_are_refused_until_they_are_allowed(
    workspace: Workspace, tmp_path: Path
) -> None:
    path = workspace.model("idc", "better") / "run.json"
    write_json(path, read_json(path) | {"leaky": "unknown", "unknown_before": True})
    refused = promote("idc", asked("better"), workspace)
    assert [gate.name for gate in refused.gates if not gate.passed] == ["leak"]
    held = tags(workspace, "1")
    assert "unknown (it is unknown which cases the weights it started from were trained on)" in held["reasons"]
    assert held["leaky"] == "unknown"
    assert "its numbers may measure memory" in kept(workspace, "1", "model_card.md", tmp_path).read_text()
    allowed = content("better")["promotion"] | {"unknown_weights": "allow"}
    assert promote("idc", asked("better", promotion=allowed), workspace).promoted


class Killed(BaseException):
    """Stands for the end of the process: nothing of ours catches it."""


@pytest.fixture
def killer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int | None], list[str]]]:
    """Ends the work before its Nth write to the registry; returns what was written."""
    written: list[str] = []
    limit: list[int | None] = [None]

    def watched(name: str) -> Callable[..., Any]:
        original = getattr(MlflowClient, name)

        def call(*arguments: Any, **options: Any) -> Any:
            if limit[0] is not None and len(written) >= limit[0]:
                raise Killed
            written.append(name)
            return original(*arguments, **options)

        return call

    for name in WRITES:
        monkeypatch.setattr(MlflowClient, name, watched(name))

    def arm(number: int | None) -> list[str]:
        written.clear()
        limit[0] = number
        return written

    yield arm


def test_a_kill_between_any_two_steps_leaves_the_old_champion_and_the_same_command_carries_on(
    workspace: Workspace, killer: Callable[[int | None], list[str]]
) -> None:
    promote("idc", asked("good"), workspace)
    steps = 0
    while True:
        written = killer(steps)
        try:
            promote("idc", asked("better"), workspace)
            break
        except Killed:
            assert "set_registered_model_alias" not in written
            killer(None)
            assert aliases(workspace) == {"champion": "1"}
            assert versions(workspace) <= 2
            steps += 1 if steps < 8 else 7  # all of the first way, some of the way over a version that is there already
    assert steps > 20
    assert aliases(workspace) == {"champion": "2"}
    assert (versions(workspace), tags(workspace, "2")["previous_champion"]) == (2, "1")


def test_a_kill_between_any_two_steps_of_a_rollback_leaves_the_champion(
    workspace: Workspace, killer: Callable[[int | None], list[str]]
) -> None:
    promote("idc", asked("good"), workspace)
    promote("idc", asked("better"), workspace)
    for steps in range(5):
        killer(steps)
        with pytest.raises(Killed):
            rollback("idc", workspace)
        killer(None)
        assert aliases(workspace)["champion"] == "2"
        assert not promote("idc", asked("better"), workspace).changed
    assert rollback("idc", workspace) == ("2", "1")
    assert not promote("idc", asked("better"), workspace).promoted


def test_a_killed_rollback_does_not_hide_the_champion_from_the_next_one(
    workspace: Workspace, killer: Callable[[int | None], list[str]]
) -> None:
    promote("idc", asked("worse", promotion=NO_FLOORS), workspace)
    promote("idc", asked("good"), workspace)
    killer(2)
    with pytest.raises(Killed):
        rollback("idc", workspace)
    killer(None)
    assert "rolled_back" in tags(workspace, "2")
    assert promote("idc", asked("better"), workspace).promoted
    assert rollback("idc", workspace) == ("3", "2")


@pytest.fixture
def anchorless(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Ends the work before the anchor is written."""
    original = MlflowClient.set_registered_model_tag

    def call(self: MlflowClient, name: str, key: str, value: Any) -> None:
        if key == "anchor":
            raise Killed
        original(self, name, key, value)

    monkeypatch.setattr(MlflowClient, "set_registered_model_tag", call)
    return lambda: monkeypatch.setattr(MlflowClient, "set_registered_model_tag", original)


def make_anchor_of_other_data(workspace: Workspace) -> Params:
    """A champion and anchor, version 1, and a candidate that can't be compared with them."""
    promote("idc", asked("good"), workspace)
    path = workspace.model("idc", "better") / "run.json"
    data = Provenance("idc", "archive", "elsewhere.zip", ("benign", "DCIS")).as_json()
    write_json(path, read_json(path) | {"data": data})
    return asked("better")


def test_a_kill_between_the_champion_and_its_anchor_is_mended_by_the_same_command(
    workspace: Workspace, request: pytest.FixtureRequest
) -> None:
    """The champion of other data takes the anchor with it."""
    params = make_anchor_of_other_data(workspace)
    revive = request.getfixturevalue("anchorless")
    with pytest.raises(Killed):
        promote("idc", params, workspace, replace="1")
    revive()
    assert (aliases(workspace)["champion"], registered(workspace)["anchor"]) == ("2", "1")
    assert "version 2 is the anchor" in str(promote("idc", params, workspace))
    assert registered(workspace)["anchor"] == "2"
    assert "anchor" not in str(promote("idc", params, workspace)), "it is told once"


@pytest.mark.parametrize("again", ["promote", "rollback"])
def test_a_rollback_of_the_anchor_that_is_killed_leaves_none_that_is_not_champion(
    workspace: Workspace, request: pytest.FixtureRequest, again: str
) -> None:
    promote("idc", asked("worse", promotion=NO_FLOORS), workspace)
    promote("idc", asked("good"), workspace)
    assert promote("idc", asked("better"), workspace).promoted
    promote("idc", asked("better"), workspace, move_anchor=True)
    revive = request.getfixturevalue("anchorless")
    with pytest.raises(Killed):
        rollback("idc", workspace)
    revive()
    assert (aliases(workspace)["champion"], registered(workspace)["anchor"]) == ("2", "3")
    if again == "promote":
        promote("idc", asked("good"), workspace)
        assert registered(workspace)["anchor"] == "2"
    else:
        assert rollback("idc", workspace) == ("2", "1")
        assert registered(workspace)["anchor"] == "1"


def start(workspace: Workspace, *command: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=workspace.root,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_promotions_at_once_leave_one_champion(workspace: Workspace) -> None:
    rivals = [start(workspace, "-m", "histopipe", "promote", "idc") for _ in range(2)]
    ends = [(*rival.communicate(timeout=300), rival.returncode) for rival in rivals]
    assert sorted(code for *_, code in ends)[0] == 0, ends
    assert {code for *_, code in ends} <= {0, 75}, ends  # 75: the other one was at it for too long
    assert aliases(workspace) == {"champion": "1"}
    assert versions(workspace) == 1


def test_two_different_promotions_at_once_take_turns_at_the_registry(workspace: Workspace) -> None:
    """Without the stage's lock, as two notebooks would: the second one is measured against the first."""
    code = (
        "import sys, pathlib, yaml; from histopipe.core.params import parse_params\n"
        "from histopipe.core.workspace import Workspace\n"
        "from histopipe.promotion.stage import promote\n"
        "content = yaml.safe_load(pathlib.Path('params.yaml').read_text()) | {'architectures': sys.argv[1:]}\n"
        "print(promote('idc', parse_params(content), Workspace(pathlib.Path.cwd())))"
    )
    both = [start(workspace, "-c", code, name) for name in ("good", "better")]
    for process in both:
        assert process.communicate(timeout=300) and process.returncode == 0
    later = str(max(int(version.version) for version in client(workspace).search_model_versions(f"name = '{NAME}'")))
    assert later == "2" and list(aliases(workspace)).count("champion") == 1
    assert tags(workspace, later)["gate.difference"] in ("passed", "failed"), "was measured against the first"


def test_an_alias_that_moved_meanwhile_is_left_alone(workspace: Workspace) -> None:
    """As another machine may move it, which the checkout's lock doesn't bind."""
    promote("idc", asked("good"), workspace)
    registry = Registry(NAME, client(workspace))
    version = registry.client.create_model_version(NAME, str(registry.client.get_model_version(NAME, "1").source))
    with pytest.raises(BusyError, match="changed meanwhile: run the same command again"):
        registry.crown(version, None)
    assert aliases(workspace) == {"champion": "1"}


def test_a_killed_process_leaves_the_old_champion(workspace: Workspace) -> None:
    """A real kill, right before the alias would move."""
    promote("idc", asked("good"), workspace)
    workspace.params.write_text(yaml.safe_dump(content("better")))
    code = (
        "import os, signal\n"
        "from histopipe.tracking.registry import Registry\n"
        "Registry.crown = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from histopipe.cli import main\n"
        "main(['promote', 'idc'])\n"
    )
    process = start(workspace, "-c", code)
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL
    assert aliases(workspace) == {"champion": "1"}
    assert promote("idc", asked("better"), workspace).promoted
    assert versions(workspace) == 2


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def serve(workspace: Workspace, port: int) -> subprocess.Popen[str]:
    """A real tracking server on the workspace's database."""
    command = ["-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    server = start(workspace, *command, "--backend-store-uri", f"sqlite:///{workspace.root}/mlflow.db")
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert server.poll() is None
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return server
        time.sleep(0.3)
    stop(server)
    pytest.fail("the server did not start")


def stop(server: subprocess.Popen[str]) -> None:
    for child in _family(server.pid):
        os.kill(child, signal.SIGKILL)
    server.communicate(timeout=30)


def _family(pid: int) -> list[int]:
    import psutil

    return [process.pid for process in (*psutil.Process(pid).children(recursive=True), psutil.Process(pid))]


def test_a_registry_that_goes_away_midway_costs_nothing(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real server, killed when the version is made but not yet champion; the call carries on where that ended."""
    port = free_port()
    server = serve(workspace, port)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.chdir(workspace.root)
    real = Registry.register

    def last_words(registry: Registry, *arguments: Any, **options: Any) -> Any:
        version = real(registry, *arguments, **options)
        stop(server)
        return version

    try:
        assert promote("idc", asked("good"), workspace).promoted
        with monkeypatch.context() as patch:
            patch.setattr(Registry, "register", last_words)
            with pytest.raises(TrackingUnreachableError, match="run the same command again") as problem:
                promote("idc", asked("better"), workspace)
        assert "\n" not in str(problem.value)
        monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES")  # a dead server is told of at once all the same
        away = CliRunner().invoke(main, ["promote", "idc"])
        assert (away.exit_code, away.stderr.count("\n")) == (2, 1), away.stderr
        assert f"no MLflow server answers at http://127.0.0.1:{port}: " in away.stderr
        assert read_json(workspace.failure("promote@idc"))["kind"] == "unreachable"
    finally:
        if server.poll() is None:
            stop(server)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert aliases(workspace) == {"champion": "1"}
    assert promote("idc", asked("better"), workspace).promoted
    assert aliases(workspace) == {"champion": "2"}
    assert (versions(workspace), tags(workspace, "2")["previous_champion"]) == (2, "1")


def test_a_server_that_goes_away_while_a_model_is_evaluated_is_one_line_and_keeps_what_there_was(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    server = serve(workspace, port)
    before = file_digest(workspace.evaluation("idc", "good") / "metrics.json")
    real = mlflow_run.log_files

    def after_its_end(folder: Path) -> None:
        stop(server)
        real(folder)

    try:
        with monkeypatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
            patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
            patch.chdir(workspace.root)
            patch.setattr(mlflow_run, "log_files", after_its_end)
            ended = CliRunner().invoke(main, ["evaluate", "idc", "good"])
    finally:
        if server.poll() is None:
            stop(server)
    said = [line for line in ended.stderr.splitlines() if line.startswith("histopipe: ")]
    assert (ended.exit_code, len(said)) == (2, 1), ended.stderr
    assert "MLflow at http://127.0.0.1 can't be used" in said[0]
    assert read_json(workspace.failure("evaluate@idc-good"))["kind"] == "unreachable"
    assert file_digest(workspace.evaluation("idc", "good") / "metrics.json") == before
