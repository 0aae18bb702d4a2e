"""The evaluate stage on a small store: what it writes, what it logs, and what it refuses."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import keras
import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from scipy.stats import spearmanr

from histopipe.cli import main
from histopipe.core.errors import EvaluationError, HistopipeError
from histopipe.core.files import file_digest, read_json, write_json
from histopipe.core.params import Params, parse_params
from histopipe.core.workspace import Workspace
from histopipe.data.store import INDEX_FILE, REPORT_FILE, shard_name
from histopipe.evaluation.metrics import METRICS
from histopipe.evaluation.stage import _is_resized, evaluate, require_both_classes
from histopipe.networks.architectures import build
from histopipe.networks.architectures.blocks import OUTPUT_LAYER
from histopipe.networks.symmetry import averaged_over_symmetries
from histopipe.tracking.stores import tracking_uri

CASES, PATCHES = 24, 12
FILES = {
    "calibration.csv",
    "cases.csv",
    "classification_report.txt",
    "confusion.csv",
    "explanation.json",
    "figures",
    "gallery.csv",
    "metrics.json",
    "operating_point.json",
    "precision_recall.csv",
    "predictions.parquet",
    "roc.csv",
    "slides.csv",
    "subgroups.csv",
}
FIGURES = {
    "calibration.png",
    "cases.png",
    "confusion.png",
    "explanation.png",
    "gallery.png",
    "precision_recall.png",
    "roc.png",
    "subgroups.png",
}

TABLES = {name for name in FILES if name.endswith(".csv")}


CONTENT = {
    "datasets": ["idc"],
    "architectures": ["cancernet"],
    "idc": {},
    "evaluate": {"resamples": 200},
    "recipes": {"cancernet": {"optimizer": {"name": "adam", "learning_rate": 0.001}, "epochs": 1}},
}


@pytest.fixture(scope="module")
def params() -> Params:
    return parse_params(CONTENT)


def make_workspace(root: Path) -> Workspace:
    """Store, split and an untrained network whose logit falls with brightness; positives are darker."""
    workspace = Workspace(root)
    random = np.random.default_rng(0)
    case = np.repeat(np.arange(CASES), PATCHES)
    label = random.integers(0, 2, len(case))
    level = 150 - 30 * label + random.normal(0, 25, len(case))
    patches = np.clip(level[:, None, None, None] + random.normal(0, 10, (len(case), 50, 50, 3)), 0, 255)
    write_store(workspace.store("idc"), patches.astype(np.uint8), case, label)
    splits = ["train", "validation", "test"]
    table = pd.DataFrame({"case_id": [f"{number:03}" for number in range(CASES)]})
    table["split"] = [splits[number % 3] for number in range(CASES)]
    workspace.split("idc").parent.mkdir(parents=True)
    table.to_csv(workspace.split("idc"), index=False)
    write_model(workspace, brightness_network(patches.astype(np.uint8)))
    return workspace


def write_store(folder: Path, patches: np.ndarray, case: np.ndarray, label: np.ndarray) -> None:
    folder.mkdir(parents=True)
    np.save(folder / shard_name(0), patches)
    index = pd.DataFrame({"file": [f"{number}.png" for number in range(len(case))]})
    index["case_id"] = [f"{number:03}" for number in case]
    index["label"], index["shard"], index["row"] = label, 0, np.arange(len(case))
    index.to_parquet(folder / INDEX_FILE, index=False)
    write_json(folder / REPORT_FILE, {"classes": ["benign", "IDC"]})


def brightness_network(patches: np.ndarray) -> keras.Model:
    keras.utils.set_random_seed(3)
    network = build("cancernet", image_size=16)
    output = network.get_layer(OUTPUT_LAYER)
    logits = keras.Model(network.inputs, output.output).predict(patches, verbose=0)
    sign = -np.sign(np.corrcoef(logits[:, 0], patches.mean(axis=(1, 2, 3)))[0, 1])
    stretch = 3 * sign / logits.std()
    kernel, _ = output.get_weights()
    output.set_weights([kernel * stretch, -logits.mean(axis=0) * stretch + 1])
    return network


def write_model(workspace: Workspace, network: keras.Model) -> None:
    folder = workspace.model("idc", "cancernet")
    folder.mkdir(parents=True, exist_ok=True)
    network.save(folder / "model.keras")
    record = {"run_id": "0" * 32, "recipe_digest": "abc", "quick": None, "leaky": False}
    write_json(folder / "run.json", record | {"split_digest": file_digest(workspace.split("idc"))})


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("evaluated"))


@pytest.fixture(scope="module")
def results(workspace: Workspace, params: Params) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return evaluate("idc", "cancernet", params, workspace)


@pytest.fixture
def folder(workspace: Workspace, results: dict[str, Any]) -> Path:
    return workspace.evaluation("idc", "cancernet")


def test_everything_that_is_promised_is_written(folder: Path, results: dict[str, Any]) -> None:
    assert {path.name for path in folder.iterdir()} == FILES
    assert {path.name for path in (folder / "figures").iterdir()} == FIGURES
    assert json.loads((folder / "metrics.json").read_text()) == results
    assert not list(folder.parent.glob("*.part"))


def test_metrics_hold_a_value_and_an_interval_each(results: dict[str, Any]) -> None:
    assert set(results["test"]) == set(METRICS)
    for found in results["test"].values():
        assert 0 <= found["low"] <= found["value"] <= found["high"] <= 1
    assert (results["cases"], results["patches"]) == (CASES // 3, CASES // 3 * PATCHES)
    assert results["test"]["roc_auc"]["value"] > 0.6, "darker patches are positive, and the network sees it"


def test_predictions_name_patch_case_and_split(folder: Path, results: dict[str, Any]) -> None:
    table = pd.read_parquet(folder / "predictions.parquet")
    assert list(table.columns) == ["file", "case_id", "split", "label", "probability", "decision"]
    assert table["probability"].dtype == np.float64
    assert set(table["split"]) == {"validation", "test"}
    assert not set(table["case_id"][table["split"] == "test"]) & set(table["case_id"][table["split"] == "validation"])
    assert (table["decision"] == (table["probability"] >= results["threshold"])).all()


def test_every_case_is_graded_by_itself(folder: Path, results: dict[str, Any]) -> None:
    cases = pd.read_csv(folder / "cases.csv", dtype={"case_id": str})
    assert len(cases) == results["cases"]
    assert cases["patches"].sum() == results["patches"]
    mean = (cases["accuracy"] * cases["patches"]).sum() / cases["patches"].sum()
    assert mean == pytest.approx(results["test"]["accuracy"]["value"])


def test_calibration_is_shown_before_and_after(results: dict[str, Any]) -> None:
    before, after = results["uncalibrated"]["calibration_error"], results["test"]["calibration_error"]
    assert before["value"] > after["value"]  # the network's logits were stretched and moved


def test_the_curves_end_where_curves_end(folder: Path) -> None:
    roc = pd.read_csv(folder / "roc.csv")
    assert list(roc.columns) == ["fpr", "tpr", "threshold"]
    assert roc[["fpr", "tpr"]].iloc[[0, -1]].to_numpy().tolist() == [[0, 0], [1, 1]]
    assert pd.read_csv(folder / "precision_recall.csv")["recall"].iloc[-1] == 1
    assert pd.read_csv(folder / "calibration.csv")["patches"].sum() == CASES // 3 * PATCHES
    assert set(pd.read_csv(folder / "confusion.csv")["actual"]) == {"benign", "IDC"}
    report = (folder / "classification_report.txt").read_text().splitlines()
    assert [line.split()[0] for line in report[2:4]] == ["benign", "IDC"]


def test_the_run_holds_metrics_pictures_and_the_served_model(
    workspace: Workspace, folder: Path, results: dict[str, Any]
) -> None:
    mlflow.set_tracking_uri(tracking_uri(workspace))
    run = mlflow.get_run(results["run_id"])
    assert run.data.tags["restored_from"] == "0" * 32, "the run that trained isn't in this tracking store"
    assert run.data.metrics["test/roc_auc"] == results["test"]["roc_auc"]["value"]
    assert run.data.metrics["test/roc_auc_low"] == results["test"]["roc_auc"]["low"]
    assert run.data.metrics["validation/threshold"] == results["threshold"]
    assert float(run.data.tags["threshold"]) == results["threshold"]
    plots = mlflow.MlflowClient().list_artifacts(results["run_id"], "plots")
    assert {Path(plot.path).name for plot in plots} == FIGURES | TABLES, "each picture beside what it shows"
    assert mlflow.get_logged_model(run.data.tags["served_model"]).source_run_id == results["run_id"]


def test_the_served_model_says_what_the_predictions_say(
    workspace: Workspace, folder: Path, results: dict[str, Any]
) -> None:
    mlflow.set_tracking_uri(tracking_uri(workspace))
    served = mlflow.pyfunc.load_model(f"runs:/{results['run_id']}/model")
    table = pd.read_parquet(folder / "predictions.parquet")
    patches = np.load(workspace.store("idc") / shard_name(0))
    answer = served.predict(patches[[int(name.removesuffix(".png")) for name in table["file"]]])
    assert answer["probability"].to_numpy() == pytest.approx(table["probability"].to_numpy(), abs=1e-5)
    assert answer["decision"].tolist() == table["decision"].tolist()


def test_again_gives_the_same_files_and_points_to_the_newest_model(
    workspace: Workspace, params: Params, folder: Path, results: dict[str, Any]
) -> None:
    mlflow.set_tracking_uri(tracking_uri(workspace))
    before = {path.name: file_digest(path) for path in folder.rglob("*.*") if path.is_file()}
    model = mlflow.get_run(results["run_id"]).data.tags["served_model"]
    evaluate("idc", "cancernet", params, workspace, processes=2)  # the second one draws
    assert {path.name: file_digest(path) for path in folder.rglob("*.*") if path.is_file()} == before
    newest = mlflow.get_run(results["run_id"]).data.tags["served_model"]
    assert newest != model
    assert mlflow.pyfunc.load_model(f"runs:/{results['run_id']}/model").metadata.model_id == newest


def broken(root: Path, params: Params, spoil: Any) -> tuple[Workspace, str]:
    """The message with which an evaluation of a spoilt workspace ends."""
    workspace = make_workspace(root)
    spoil(workspace)
    with pytest.raises(HistopipeError) as problem:
        evaluate("idc", "cancernet", params, workspace)
    assert not workspace.evaluation("idc", "cancernet").exists()
    assert "\n" not in str(problem.value)
    return workspace, str(problem.value)


def spoil_weights(workspace: Workspace) -> None:
    network = keras.saving.load_model(workspace.model("idc", "cancernet") / "model.keras")
    kernel, bias = network.get_layer(OUTPUT_LAYER).get_weights()
    network.get_layer(OUTPUT_LAYER).set_weights([kernel * np.nan, bias])
    write_model(workspace, network)


def damage_model(workspace: Workspace) -> None:
    path = workspace.model("idc", "cancernet") / "model.keras"
    path.write_bytes(path.read_bytes()[:1000])


def change_split(workspace: Workspace) -> None:
    path = workspace.split("idc")
    path.write_text(path.read_text().replace("002,test", "002,train"))


def name_unknown_case(workspace: Workspace) -> None:
    with workspace.split("idc").open("a") as table:
        table.write("999,test\n")
    record = read_json(workspace.model("idc", "cancernet") / "run.json")
    digest = {"split_digest": file_digest(workspace.split("idc"))}
    write_json(workspace.model("idc", "cancernet") / "run.json", record | digest)


def train_on_test_cases(workspace: Workspace) -> None:
    """As where the cases were dealt anew while a training held its rows, and the digest taken afterwards."""
    path = workspace.model("idc", "cancernet") / "run.json"
    write_json(path, read_json(path) | {"train_cases": ["000", "002"], "validation_cases": ["001", "005"]})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (train_on_test_cases, " test cases were trained or validated on (first: 002)"),
        (spoil_weights, "predictions are no numbers (first: "),
        (damage_model, "model.keras can't be loaded ("),
        (
            lambda workspace: (workspace.model("idc", "cancernet") / "model.keras").unlink(),
            "model.keras is missing",
        ),
        (change_split, "was trained on another split than"),
        (name_unknown_case, "names case_id 999, which the store doesn't have"),
    ],
)
def test_what_cannot_be_graded_is_refused_in_one_line(tmp_path: Path, params: Params, spoil: Any, message: str) -> None:
    _, found = broken(tmp_path, params, spoil)
    assert message in found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": [1, 1, 1, 1]}, "the validation split has only patches of label 1"),
        ({"label": [1, 0, 0, 0]}, "the test split has only patches of label 0"),
        ({"split": ["validation"] * 4}, "the test split has no patches"),
    ],
)
def test_splits_need_both_classes(changes: dict[str, Any], message: str) -> None:
    table = {"split": ["validation", "validation", "test", "test"], "label": [0, 1, 0, 1]}
    require_both_classes(pd.DataFrame(table), Path("idc.csv"))
    with pytest.raises(EvaluationError, match=message):
        require_both_classes(pd.DataFrame(table | changes), Path("idc.csv"))


def change_index(workspace: Workspace, rows: slice, column: str, value: object) -> None:
    path = workspace.store("idc") / INDEX_FILE
    index = pd.read_parquet(path)
    index.loc[rows, column] = value
    index.to_parquet(path, index=False)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda workspace: change_index(workspace, slice(3, 4), "case_id", None),
            "2 patches have no case (first: 3.png",
        ),
        (
            lambda workspace: change_index(workspace, slice(3, 4), "case_id", " "),
            "2 patches have no case (first: 3.png",
        ),
        (lambda place: change_index(place, slice(0, 999), "label", 0), "split has only patches of label 0"),
        (spoil_weights, "predictions are no numbers (first: "),
        (damage_model, "model.keras can't be loaded ("),
    ],
)
def test_the_command_says_one_line_and_leaves_what_lay_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Any, message: str
) -> None:
    workspace = make_workspace(tmp_path)
    workspace.params.write_text(yaml.safe_dump(CONTENT))
    earlier = workspace.evaluation("idc", "cancernet") / "metrics.json"
    write_json(earlier, {"earlier": True})
    spoil(workspace)
    monkeypatch.chdir(workspace.root)
    done = CliRunner().invoke(main, ["evaluate", "idc", "cancernet"])
    (said,) = [line for line in done.stderr.splitlines() if line.strip() and "patch/s]" not in line]
    assert done.exit_code == 2
    assert said.startswith("histopipe: ") and message in said
    assert read_json(earlier) == {"earlier": True}
    assert list(earlier.parent.parent.iterdir()) == [earlier.parent], "nothing half-written beside it"
    assert not (workspace.root / "mlflow.db").exists(), "no run was begun"
    assert read_json(workspace.failure("evaluate@idc-cancernet"))["kind"] == "bad_input"


def test_a_server_that_is_away_is_told_of_before_anything_is_predicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that can't even be loaded isn't noticed."""
    workspace = make_workspace(tmp_path)
    workspace.params.write_text(yaml.safe_dump(CONTENT))
    damage_model(workspace)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{probe.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.chdir(workspace.root)
    done = CliRunner().invoke(main, ["evaluate", "idc", "cancernet"])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.stderr
    assert f"no MLflow server answers at {address}: " in done.stderr
    assert not workspace.evaluation("idc", "cancernet").parent.exists(), "nothing was begun"


@pytest.mark.parametrize(("dataset", "resized"), [("idc", False), ("malaria", True), ("breakhis", True)])
def test_served_models_resize_where_ingest_does(params: Params, dataset: str, resized: bool) -> None:
    with_block = parse_params({**params.model_dump(exclude={"sources"}), "idc": {}, dataset: {}})
    assert _is_resized(dataset, with_block) is resized


def test_a_network_that_averages_is_graded_and_served_so_and_shows_what_one_view_gives(
    tmp_path: Path, params: Params
) -> None:
    workspace = make_workspace(tmp_path)
    single = keras.saving.load_model(workspace.model("idc", "cancernet") / "model.keras", compile=False)
    write_model(workspace, averaged_over_symmetries(single))
    results = evaluate("idc", "cancernet", params, workspace)
    table = pd.read_parquet(workspace.evaluation("idc", "cancernet") / "predictions.parquet")
    patches = np.load(workspace.store("idc") / shard_name(0))[table["file"].str.removesuffix(".png").astype(int)]
    served = mlflow.pyfunc.load_model(f"runs:/{results['run_id']}/model").predict(patches)
    np.testing.assert_allclose(served["probability"], table["probability"], atol=1e-5)
    turned = mlflow.pyfunc.load_model(f"runs:/{results['run_id']}/model").predict(np.rot90(patches, axes=(1, 2)).copy())
    np.testing.assert_allclose(turned["probability"], table["probability"], atol=1e-5)
    alone = single.predict(patches, verbose=0)[:, 0]
    assert spearmanr(table["one_view"], alone).statistic > 0.9999
    assert spearmanr(table["one_view"], table["probability"]).statistic < 0.9999


def test_on_request_a_network_shows_what_averaging_would_give(tmp_path: Path) -> None:
    """Calibrated by itself, and without any effect on what is graded and served."""
    workspace = make_workspace(tmp_path)
    asked = parse_params(CONTENT | {"evaluate": {"resamples": 200, "symmetries": True}})
    evaluate("idc", "cancernet", asked, workspace, explain=False)
    table = pd.read_parquet(workspace.evaluation("idc", "cancernet") / "predictions.parquet")
    patches = np.load(workspace.store("idc") / shard_name(0))[table["file"].str.removesuffix(".png").astype(int)]
    single = keras.saving.load_model(workspace.model("idc", "cancernet") / "model.keras", compile=False)
    averaged = averaged_over_symmetries(single).predict(patches, verbose=0)[:, 0]
    assert spearmanr(table["d4"], averaged).statistic > 0.9999
    assert spearmanr(table["probability"], single.predict(patches, verbose=0)[:, 0]).statistic > 0.9999
    assert spearmanr(table["d4"], table["probability"]).statistic < 0.9999
    assert "one_view" not in table
    validation = table[table["split"] == "validation"]
    assert validation["d4"].mean() == pytest.approx(validation["label"].mean(), abs=0.01)
