"""Files of a model for other runtimes: Keras' own answers, what they say of themselves, what they cost."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx as onnx_files
import pandas as pd
import pytest
from click.testing import CliRunner

from benchmarks.recipes import prepare, run_stage, trained
from histopipe.cli import main
from histopipe.core.errors import ExportError
from histopipe.core.files import file_digest, read_json
from histopipe.core.workspace import Workspace
from histopipe.evaluation.stage import evaluate
from histopipe.export import litert, stage
from histopipe.export.formats import FORMATS
from histopipe.export.origin import Origin
from histopipe.export.parity import TOLERANCE, measure_parity, require_agreement
from histopipe.export.patches import balanced_over_cases
from histopipe.export.report import UNSEEN
from histopipe.export.source import Quantize, Source
from histopipe.export.stage import move_into_place
from histopipe.networks.architectures import list_architectures
from histopipe.networks.architectures.blocks import OUTPUT_LAYER, patch_input, probability, rescale
from histopipe.networks.openvino import load_openvino
from histopipe.networks.symmetry import averaged_over_symmetries
from histopipe.promotion.stage import promote
from tests.builders.networks import patches, settled
from tests.builders.promotions import asked, make_workspace
from tests.builders.registry import NAME, client

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="converters read TensorFlow only")
for package in ("ai_edge_litert", "onnx", "onnxruntime", "tf2onnx", "nncf"):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f'needs {package}: pip install -c requirements.lock -e ".[export]"', allow_module_level=True)

FACTS = {"dataset": "idc", "classes": ["benign", "IDC"], "threshold": 0.4}
SHORT = {("wide_resnet", "onnx"), ("histonet", "litert"), ("resnet", "openvino")}  # each format, each once

every_format = pytest.mark.parametrize("kind", list(FORMATS))


def source(network: keras.Model, quantize: Quantize = "none", size: int = 50) -> Source:
    calibration = patches(20 if quantize == "int8" else 0, size, seed=5)
    return Source(network, (size, size), quantize, calibration, FACTS)


def marks(name: str, kind: str) -> list[pytest.MarkDecorator]:
    return [] if (name, kind) in SHORT else [pytest.mark.long]


def test_every_option_of_the_command_is_a_format() -> None:
    offered = next(option for option in main.commands["export"].params if option.name == "kind").type
    assert list(offered.choices) == list(FORMATS)  # listed twice: `histopipe --help` loads no format


def agree(kind: str, network: keras.Model, folder: Path, size: int = 50) -> None:
    batch = patches(9, size)
    expected = np.asarray(network.predict_on_batch(batch))[:, 0]
    made = FORMATS[kind].write(source(network, size=size), folder / f"model{FORMATS[kind].suffix}")
    predict = FORMATS[kind].load(made[0], 1)
    assert np.ptp(expected) > 5e-4
    for count in (9, 1, 4):  # the batch may be of any size
        np.testing.assert_allclose(predict(batch[:count]), expected[:count], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("name", "kind"),
    [pytest.param(name, kind, marks=marks(name, kind)) for name in list_architectures() for kind in FORMATS],
)
def test_every_architecture_answers_as_keras_does(name: str, kind: str, tmp_path: Path) -> None:
    agree(kind, settled(name), tmp_path)


@pytest.mark.parametrize("size", [37, 96])
def test_onnx_files_resize_to_the_size_that_the_network_asks_for(size: int, tmp_path: Path) -> None:
    """37 times the float32 nearest to 48 / 37 is less than 48; 48 / 96 is a float32."""
    agree("onnx", settled("cancernet"), tmp_path, size)


@every_format
def test_a_network_that_averages_over_symmetries_answers_as_keras_does(kind: str, tmp_path: Path) -> None:
    agree(kind, averaged_over_symmetries(settled("cancernet")), tmp_path)


@every_format
def test_a_file_says_what_it_is(kind: str, tmp_path: Path) -> None:
    (path, *_) = FORMATS[kind].write(source(settled("cancernet")), tmp_path / f"model{FORMATS[kind].suffix}")
    if kind == "litert":
        assert litert.read_facts(path) == FACTS
    elif kind == "onnx":
        held = {entry.key: entry.value for entry in onnx_files.load(path).metadata_props}
        assert held == {"dataset": "idc", "classes": "benign, IDC", "threshold": "0.4"}
    else:
        model = load_openvino().Core().read_model(path)
        assert model.get_rt_info(["histopipe", "classes"]).value == "benign, IDC"


def test_litert_files_hold_no_operation_of_tensorflow(tmp_path: Path) -> None:
    """Flex operations would need a runtime twenty times as large; its interpreter here hasn't even got them."""
    from tensorflow.lite.python.schema_py_generated import BuiltinOperator
    from tensorflow.lite.tools import flatbuffer_utils

    (path,) = FORMATS["litert"].write(source(averaged_over_symmetries(settled("histonet"))), tmp_path / "m.tflite")
    codes = flatbuffer_utils.read_model(str(path)).operatorCodes
    assert codes and all(code.builtinCode != BuiltinOperator.CUSTOM for code in codes)


@every_format
def test_lower_precision_makes_smaller_files_that_answer_alike(kind: str, tmp_path: Path) -> None:
    network, batch = settled("cancernet"), patches(32, seed=5)
    expected = np.asarray(network.predict_on_batch(batch))[:, 0]
    sizes, apart = {}, {}
    for quantize in ("none", "float16", "int8"):
        form = FORMATS[kind]
        made = form.write(source(network, quantize), tmp_path / f"{quantize}{form.suffix}")
        sizes[quantize] = sum(path.stat().st_size for path in made)
        apart[quantize] = float(np.abs(form.load(made[0], 1)(batch) - expected).mean())
    assert sizes["float16"] < 0.55 * sizes["none"]
    assert sizes["int8"] < 0.3 * sizes["none"] < 1.5e6
    assert apart["none"] < TOLERANCE and 0 < apart["float16"] < 0.02 and 0 < apart["int8"] < 0.2


def brightness() -> keras.Model:
    """A network whose log odds go from -1 to 1 with the brightness of a patch."""
    inputs = patch_input()
    x = keras.layers.Conv2D(4, 3, kernel_initializer=keras.initializers.Constant(1 / 27))(rescale(inputs, 48))
    network = keras.Model(inputs, probability(keras.layers.GlobalAveragePooling2D()(x)))
    network.get_layer(OUTPUT_LAYER).set_weights([np.full((4, 1), 0.5), np.array([-1.0])])
    return network


@every_format
def test_int8_cuts_off_nothing_of_the_brightest_calibration_patch(kind: str, tmp_path: Path) -> None:
    batch = np.repeat(np.array([0, 8, 16, 24, 250], np.uint8), 50 * 50 * 3).reshape(5, 50, 50, 3)
    network = brightness()
    made = FORMATS[kind].write(
        Source(network, (50, 50), "int8", batch, FACTS), tmp_path / f"model{FORMATS[kind].suffix}"
    )
    expected = np.asarray(network.predict_on_batch(batch))[:, 0]
    assert expected[-1] > 0.7
    np.testing.assert_allclose(FORMATS[kind].load(made[0], 1)(batch), expected, rtol=0, atol=0.01)


def test_calibration_patches_are_shared_out_over_the_cases_and_drawn_by_seed() -> None:
    cases = pd.Series(np.repeat(["a", "b", "c", "d"], [100, 3, 40, 60]))
    rows = np.flatnonzero(cases != "d")
    chosen = balanced_over_cases(cases, rows, 30, seed=1)
    assert cases.iloc[chosen].value_counts().to_dict() in ({"a": 14, "c": 13, "b": 3}, {"c": 14, "a": 13, "b": 3})
    np.testing.assert_array_equal(chosen, balanced_over_cases(cases, rows, 30, seed=1))
    assert not np.array_equal(chosen, balanced_over_cases(cases, rows, 30, seed=2))
    np.testing.assert_array_equal(balanced_over_cases(cases, rows, 1000, seed=1), rows)


def test_parity_is_what_the_answers_say() -> None:
    random = np.random.default_rng(0)
    table = pd.DataFrame({"case_id": np.repeat(list("abcdefgh"), 25), "label": random.integers(0, 2, 200)})
    keras_says = np.clip(0.5 + 0.3 * (table["label"] - 0.5) + random.normal(0, 0.2, 200), 0, 1).to_numpy()
    file_says = keras_says.copy()
    file_says[[3, 77]] = 1 - (keras_says[[3, 77]] >= 0.5)  # two decisions turned round
    found = measure_parity(keras_says, file_says, table, 0.5, 200, seed=1)
    assert found["decisions_changed"]["value"] == pytest.approx(0.01)
    assert 0 < found["decisions_changed"]["low"] < 0.01 < found["decisions_changed"]["high"]
    change = found["change"]["roc_auc"]
    assert change["value"] == pytest.approx(found["file"]["roc_auc"] - found["keras"]["roc_auc"])
    assert change["low"] <= change["value"] <= change["high"] and change["value"] != 0
    assert found["probability_difference"]["max"] == pytest.approx(np.abs(keras_says - file_says).max())
    with pytest.raises(ExportError, match=r"the onnx file is off by 0\.\d+ from Keras .* nothing was written"):
        require_agreement(found, "none", lambda: "the onnx file")
    require_agreement(found, "int8", lambda: "the onnx file")
    with pytest.raises(ExportError, match="no probabilities"):
        measure_parity(keras_says, np.full(200, np.nan), table, 0.5, 200, seed=1)


@pytest.fixture(scope="module")
def promoted(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = make_workspace(tmp_path_factory.mktemp("promoted"))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        evaluate("idc", "good", asked("good"), workspace)
        promote("idc", asked("good"), workspace)
    return workspace


def run(workspace: Workspace, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> tuple[int, str]:
    monkeypatch.chdir(workspace.root)
    done = CliRunner().invoke(main, ["export", *map(str, arguments)])
    said = done.stdout if done.exit_code == 0 else done.stderr
    return done.exit_code, (said.strip().splitlines() or [""])[-1]


@every_format
def test_the_champion_becomes_a_file_with_its_measures_in_mlflow(
    promoted: Workspace, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantize = "int8" if kind == "openvino" else "none"
    code, said = run(promoted, monkeypatch, "idc", "--format", kind, "--quantize", quantize, "--out", tmp_path)
    assert code == 0, said
    path = tmp_path / f"good-{quantize}{FORMATS[kind].suffix}"
    record = read_json(tmp_path / "export.json")["exports"][path.name]
    assert record["sha256"] == file_digest(path) and record["seen"] == "known"
    facts = read_json(tmp_path / f"{path.name}.json")
    point = read_json(promoted.evaluation("idc", "good") / "operating_point.json")
    assert (facts["model"], facts["version"], facts["architecture"]) == (NAME, "1", "good")
    assert (facts["classes"], facts["threshold"]) == (["benign", "IDC"], point["threshold"])
    table = pd.read_parquet(promoted.evaluation("idc", "good") / "predictions.parquet")
    test = table[table["split"] == "test"]
    assert record["parity"]["patches"] == len(test) and record["parity"]["cases"] == test["case_id"].nunique()
    metrics = read_json(promoted.evaluation("idc", "good") / "metrics.json")
    assert record["parity"]["keras"]["roc_auc"] == pytest.approx(metrics["test"]["roc_auc"]["value"], abs=1e-6)
    if quantize == "none":
        assert record["parity"]["probability_difference"]["max"] <= TOLERANCE
    assert set(record["latency"]["batches"]) == {"1", "32"} and record["latency"]["batches"]["32"]["ratio"] > 0
    assert f"`{path.name}`" in (tmp_path / "export.md").read_text()
    store = client(promoted)
    version = store.get_model_version(NAME, "1")
    logged = {Path(file.path).name for file in store.list_artifacts(version.run_id, f"exports/{kind}-{quantize}")}
    assert {path.name, f"{path.name}.json", "export.json", "export.md"} <= logged
    assert version.tags[f"export.{kind}-{quantize}.sha256"] == record["sha256"]
    assert f"exports/{kind}-{quantize} of run {version.run_id}" in said


def test_a_file_may_be_named_and_kept_out_of_mlflow(
    promoted: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "phone.onnx"
    code, said = run(
        promoted, monkeypatch, "idc", "good", "--format", "onnx", "--quantize", "float16", "--out", out, "--no-log"
    )
    assert code == 0 and said.startswith(f"{out}: ")
    assert {path.name for path in tmp_path.iterdir()} == {"phone.onnx", "phone.onnx.json", "export.json", "export.md"}
    run_id = client(promoted).get_model_version(NAME, "1").run_id
    assert not client(promoted).list_artifacts(run_id, "exports/onnx-float16")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["idc", "--format", "coreml"], "'coreml' is not one of 'litert', 'onnx', 'openvino'"),
        (["idc", "--format", "onnx", "--quantize", "int4"], "'int4' is not one of 'none', 'float16', 'int8'"),
        (["idc", "good", "--model", "champion", "--format", "onnx"], "are two models: give one of them"),
        (["idc", "better", "--format", "onnx"], "there is no model of better: run `dvc repro evaluate@idc-better`"),
        (["idc", "--model", "models:/none/1", "--format", "onnx"], "models:/none/1 can't be loaded"),
        (["idc", "--format", "onnx", "--out", "model.tflite"], "model.tflite can't be a .onnx file"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    promoted: Workspace, arguments: list[str], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    code, said = run(promoted, monkeypatch, *(arguments if "--out" in arguments else [*arguments, "--out", out]))
    assert code == 2 and complaint in said
    assert not out.exists()


def test_without_a_store_there_is_nothing_to_calibrate_by(
    promoted: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "elsewhere"
    shutil.copytree(promoted.root, root, ignore=shutil.ignore_patterns("store", "mlartifacts"))
    code, said = run(
        Workspace(root), monkeypatch, "idc", "--format", "litert", "--quantize", "int8", "--out", tmp_path / "out"
    )
    assert code == 2 and "index.parquet is missing: run `dvc repro ingest@idc`" in said
    assert not (tmp_path / "out").exists()


def test_a_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Any = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "nncf" else real(name))
    FORMATS["openvino"].require("float16")
    with pytest.raises(ExportError, match=r'needs nncf, .*: run `pip install -c requirements.lock -e "\.\[export\]"`'):
        FORMATS["openvino"].require("int8")


def test_a_kill_between_two_files_of_an_export_leaves_no_old_graph_with_new_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [tmp_path / "made/m.xml", tmp_path / "made/m.bin"]
    for folder, version in (("made", "new"), ("out", "old")):
        (tmp_path / folder).mkdir()
        for path in made:
            (tmp_path / folder / path.name).write_text(version)
    copy = shutil.copyfile

    def killed(source: Path, target: Path) -> Path:
        if source.suffix == ".xml":
            raise KeyboardInterrupt
        return copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", killed)
    with pytest.raises(KeyboardInterrupt):
        move_into_place(made, tmp_path / "out/m.xml", {})
    assert {path.name: path.read_text() for path in (tmp_path / "out").iterdir()} == {"m.bin": "new"}


def test_a_model_of_unknown_origin_says_so(
    promoted: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "find_origin", lambda *_: Origin(None, None, None))
    code, said = run(promoted, monkeypatch, "idc", "--format", "onnx", "--out", tmp_path)
    assert code == 0 and UNSEEN in said
    (record,) = read_json(tmp_path / "export.json")["exports"].values()
    assert record["seen"] == "unknown" and UNSEEN in (tmp_path / "export.md").read_text()


@pytest.mark.long
@pytest.mark.parametrize(
    ("dataset", "sample", "architecture", "epochs", "limit"),
    [("idc", "idc-sample.zip", "cancernet", 3, 1.5e6), ("malaria", "malaria-sample.zip", "resnet", 4, 10e6)],
)
def test_a_real_model_in_int8_is_small_and_ranks_as_before(
    dataset: str, sample: str, architecture: str, epochs: int, limit: float, tmp_path: Path, real: Callable[[str], Path]
) -> None:
    prepare(tmp_path, dataset, real(sample), 42, "float32", epochs)
    trained(tmp_path, dataset, architecture)
    arguments = ["--format", "litert", "--quantize", "int8", "--out", str(tmp_path / "out")]
    run_stage(tmp_path, "export", dataset, architecture, *arguments)
    (record,) = read_json(tmp_path / "out/export.json")["exports"].values()
    assert record["bytes"] < limit
    assert record["parity"]["keras"]["roc_auc"] > 0.8
    assert record["parity"]["change"]["roc_auc"]["value"] > -0.01  # a few epochs: docs/exporting.md has what was seen
