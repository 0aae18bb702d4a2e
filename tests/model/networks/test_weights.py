"""What networks start from: fetched once, checked, recorded, and never something else than was asked for."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import keras
import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner

from histopipe.cli import main
from histopipe.core.errors import ParamsError, UnreachableError, WeightsError
from histopipe.core.files import file_digest, read_json, write_json
from histopipe.core.params import Params, parse_params
from histopipe.core.workspace import Workspace
from histopipe.data.splitting.stage import split
from histopipe.data.store import INDEX_FILE, read_index
from histopipe.evaluation.mlflow_run import log_calibrated_model
from histopipe.ingest.stage import ingest
from histopipe.networks.architectures import build
from histopipe.networks.architectures.backbones import BACKBONE_LAYER, build_backbone
from histopipe.networks.architectures.blocks import OUTPUT_LAYER
from histopipe.networks.symmetry import averaged_over_symmetries
from histopipe.networks.weights.imagenet import SQUEEZENET_FILE
from histopipe.networks.weights.loading import load_into
from histopipe.networks.weights.record import Weights, read_weights, weights_digest
from histopipe.networks.weights.seen_data import starts_from_unknown
from histopipe.networks.weights.stage import fetch_weights
from histopipe.tracking.stores import current_client, open_client, prepare_experiment
from histopipe.training.plan import plan_training
from histopipe.training.recipe import recipe_digest
from histopipe.training.stage import train
from tests.builders.archives import idc_members, write_zip
from tests.builders.paths import ROOT

HISTONETS = ({"blocks": 2}, {"blocks": 1})
NO_NETWORK = {"https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9", "no_proxy": ""}


def starting(content: dict[str, Any], name: str, asked: str, **quick: Any) -> Params:
    content["quick"] = quick or None
    content["recipes"][name]["weights"] = asked
    return parse_params(content)


@pytest.fixture
def squeezenet_file(tmp_path: Path) -> Path:
    """SqueezeNet's backbone with weights of its own, as Keras 3 saves them."""
    keras.utils.set_random_seed(7)
    file = tmp_path / "squeezenet.weights.h5"
    build_backbone("squeezenet", 64).save_weights(file)
    return file


def served(workspace: Workspace, network: keras.Model, temperature: float = 1.0, offset: float = 0.0) -> str:
    """Log and register a network as `evaluate` and `promote` do; returns the run's id."""
    experiment = prepare_experiment(workspace, "idc")
    point = {"temperature": temperature, "offset": offset, "threshold": 0.5, "patch_size": [50, 50], "resized": False}
    with mlflow.start_run(experiment_id=experiment) as run:
        info = log_calibrated_model(network, point, np.zeros((50, 50, 3), np.uint8), {})
        version = mlflow.register_model(info.model_uri, "histopipe-idc")
    open_client(workspace).set_registered_model_alias("histopipe-idc", "champion", version.version)
    return str(run.info.run_id)


def test_random_weights_are_a_record_and_nothing_else(workspace: Workspace, content: dict[str, Any]) -> None:
    params = starting(content, "densenet201", "imagenet", weights="random")
    record = fetch_weights("densenet201", params, workspace)
    assert [path.name for path in workspace.weights("densenet201").iterdir()] == ["weights.json"]
    assert (record.choice, record.architecture, record.file) == ("random", "densenet201", None)
    assert read_weights("densenet201", params, workspace) is None


def test_random_weights_need_neither_network_nor_keras(workspace: Workspace) -> None:
    code = (
        "import sys\nfrom histopipe.cli import main\ntry:\n    main(['weights', 'cancernet'])\n"
        "except SystemExit as end:\n    assert not end.code\nassert 'keras' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=workspace.root,
        env={**os.environ, **NO_NETWORK, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "cancernet: random\n"


@pytest.mark.parametrize("recipe", ["squeezenet", pytest.param("densenet201", marks=pytest.mark.long)])
def test_without_a_network_one_line_names_the_other_choices(workspace: Workspace, recipe: str, tmp_path: Path) -> None:
    content = yaml.safe_load(workspace.params.read_text())
    workspace.params.write_text(yaml.safe_dump(content | {"quick": None}))
    done = subprocess.run(
        [sys.executable, "-m", "histopipe", "weights", recipe],
        cwd=workspace.root,
        env={**os.environ, **NO_NETWORK, "PYTHONPATH": str(ROOT), "KERAS_HOME": str(tmp_path / "keras")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    said = [line for line in done.stderr.splitlines() if line.startswith("histopipe: ")]
    assert len(said) == 1
    assert said[0].startswith(f"histopipe: recipes.{recipe}.weights: imagenet weights for {recipe} can't be fetched (")
    assert said[0].endswith("connect once, or give a file's path, models:/name@alias, or random")
    assert "Traceback" not in done.stderr
    assert not workspace.weights(recipe).exists()
    reason = read_json(workspace.failure(f"weights@{recipe}"))
    assert reason["kind"] == "unreachable"


@pytest.fixture
def mirror() -> Iterator[str]:
    """The address of a server that answers every question with four megabytes of nothing."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(4 * 2**20))
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(bytes(4 * 2**20))

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/weights.h5"
    server.shutdown()
    server.server_close()


def test_a_full_disk_is_told_as_that_and_not_tried_again(
    workspace: Workspace, small_disk: Path, mirror: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("histopipe.networks.weights.imagenet.SQUEEZENET_URL", mirror)
    workspace.params.write_text(yaml.safe_dump(yaml.safe_load(workspace.params.read_text()) | {"quick": None}))
    workspace.weights("squeezenet").parent.parent.mkdir()
    workspace.weights("squeezenet").parent.symlink_to(small_disk, target_is_directory=True)
    monkeypatch.chdir(workspace.root)
    done = CliRunner().invoke(main, ["weights", "squeezenet"])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.output
    assert done.stderr.endswith("No space left on device: make room, then run again\n")
    assert read_json(workspace.failure("weights@squeezenet"))["kind"] == "bad_input"
    assert list(small_disk.iterdir()) == []


def test_a_file_that_is_not_the_published_one_is_told_as_that(
    workspace: Workspace, content: dict[str, Any], mirror: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keras.src.applications.vgg16.WEIGHTS_PATH_NO_TOP", mirror)
    monkeypatch.setattr("keras.src.utils.file_utils.config.keras_home", lambda: str(tmp_path / "keras"))
    content["recipes"]["squeezenet"]["model"]["backbone"] = "vgg16"
    with pytest.raises(WeightsError, match=r"imagenet weights for vgg16 were received damaged \(.* or random$"):
        fetch_weights("squeezenet", starting(content, "squeezenet", "imagenet"), workspace)


def test_published_weights_are_fetched_once(
    workspace: Workspace, content: dict[str, Any], monkeypatch: pytest.MonkeyPatch, squeezenet_file: Path
) -> None:
    for name, value in NO_NETWORK.items():
        monkeypatch.setenv(name, value)
    params, folder = starting(content, "squeezenet", "imagenet"), workspace.weights("squeezenet")
    folder.mkdir(parents=True)
    shutil.copy(squeezenet_file, folder / squeezenet_file.name)
    earlier = Weights("imagenet", "transfer", "other code", "squeezenet", squeezenet_file.name, "?", {"url": "u"})
    earlier.write(folder)
    with pytest.raises(UnreachableError):
        fetch_weights("squeezenet", params, workspace)  # the file isn't what was recorded
    Weights(**{**vars(earlier), "sha256": file_digest(squeezenet_file)}).write(folder)
    again = fetch_weights("squeezenet", params, workspace)
    assert (again.sha256, again.origin) == (file_digest(squeezenet_file), {"url": "u"})
    assert again.code != "other code"
    assert read_weights("squeezenet", params, workspace) == again


@pytest.mark.parametrize(("recipe", "model"), [("cancernet", {}), ("squeezenet", {"backbone": "alexnet"})])
def test_networks_that_nobody_published_weights_for(
    workspace: Workspace, content: dict[str, Any], recipe: str, model: dict[str, Any]
) -> None:
    content["recipes"][recipe]["model"] |= model
    with pytest.raises(WeightsError, match=rf"recipes\.{recipe}\.weights: .* imagenet weights .*or random$"):
        fetch_weights(recipe, starting(content, recipe, "imagenet"), workspace)


def test_the_published_file_loads_and_its_first_kernel_is_known(
    workspace: Workspace, content: dict[str, Any], real: Callable[[str], Path]
) -> None:
    file = real(f"weights/{SQUEEZENET_FILE}")
    params = starting(content, "squeezenet", str(file))
    record = fetch_weights("squeezenet", params, workspace)
    assert (record.file, record.sha256, record.backbone) == (SQUEEZENET_FILE, file_digest(file), "squeezenet")
    network = build("transfer", image_size=64, backbone="squeezenet")
    taken = load_into(network, workspace.weights("squeezenet") / SQUEEZENET_FILE, "squeezenet", "it")
    assert taken == (50, 50 + 6)  # 25 convolutions; batch norm and unit stay
    kernel = np.array(network.get_layer(BACKBONE_LAYER).get_layer("conv1").kernel)
    import h5py

    with h5py.File(file) as content_of:
        np.testing.assert_array_equal(kernel, content_of["conv1/uniform1"])
        wide = network.get_layer(BACKBONE_LAYER).get_layer("fire9_expand3x3")
        np.testing.assert_array_equal(wide.kernel, content_of["fire9/expand3x3/uniform25"])


@pytest.fixture
def bad_files(tmp_path: Path) -> dict[str, Path]:
    build("cancernet", image_size=16).save_weights(tmp_path / "other.weights.h5")
    build("cancernet", image_size=16).save(tmp_path / "other.keras")
    (tmp_path / "cut.h5").write_bytes((tmp_path / "other.weights.h5").read_bytes()[:2000])
    (tmp_path / "text.weights.h5").write_text("no weights")
    (tmp_path / "cut.keras").write_bytes((tmp_path / "other.keras").read_bytes()[:2000])
    (tmp_path / "weights.pkl").write_bytes(b"\x80\x04.")
    broken = build_backbone("squeezenet", 32)
    broken.set_weights([weight * np.nan for weight in broken.get_weights()])
    broken.save_weights(tmp_path / "nan.weights.h5")
    return {path.name: path for path in tmp_path.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("other.weights.h5", "doesn't fit this network"),
        ("other.keras", "has no layer that fits|can't be read"),
        ("cut.h5", "doesn't fit this network"),
        ("text.weights.h5", "doesn't fit this network"),
        ("cut.keras", "can't be read as a Keras network"),
        ("weights.pkl", "should end with .keras"),
        ("nan.weights.h5", "values that are no numbers"),
    ],
)
def test_bad_files_are_one_line(
    workspace: Workspace, content: dict[str, Any], bad_files: dict[str, Path], name: str, said: str
) -> None:
    with pytest.raises(WeightsError, match=said) as caught:
        fetch_weights("squeezenet", starting(content, "squeezenet", str(bad_files[name])), workspace)
    assert str(caught.value).startswith("recipes.squeezenet.weights: ")
    assert "\n" not in str(caught.value)
    assert not workspace.weights("squeezenet").exists()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("imagnet", "did you mean 'imagenet'"),
        ("some/file.h5", "there is no file .*some/file.h5; give imagenet, random"),
        ("models:/histopipe-idc", "is not the address of a model: write models:/NAME@ALIAS"),
        ("models:/histopipe-idc@champion", "can't be read from the tracking store"),
        ("models:/histopipe-idc/3", "can't be read from the tracking store"),
    ],
)
def test_weights_that_are_nowhere_are_one_line(
    workspace: Workspace, content: dict[str, Any], asked: str, said: str
) -> None:
    with pytest.raises(WeightsError, match=said) as caught:
        fetch_weights("cancernet", starting(content, "cancernet", asked), workspace)
    assert "\n" not in str(caught.value)


def test_a_path_starts_from_the_checkout_also_in_an_experiments_folder(
    workspace: Workspace, content: dict[str, Any], squeezenet_file: Path
) -> None:
    (workspace.root / "mine").mkdir()
    shutil.copy(squeezenet_file, workspace.root / "mine")
    inside = Workspace(workspace.root / ".dvc" / "tmp" / "exps" / "x")
    record = fetch_weights("squeezenet", starting(content, "squeezenet", "mine/squeezenet.weights.h5"), inside)
    assert record.origin == {"path": "mine/squeezenet.weights.h5"}
    assert (inside.weights("squeezenet") / "squeezenet.weights.h5").is_file()


@pytest.mark.parametrize("name", [pytest.param("EfficientNetB0", marks=pytest.mark.long), "MobileNetV2"])
def test_files_of_keras_applications_fit_also_where_scaling_layers_were_left_out(name: str, tmp_path: Path) -> None:
    keras.utils.set_random_seed(3)
    published = getattr(keras.applications, name)(weights=None, include_top=False, input_shape=(64, 64, 3))
    published.save_weights(tmp_path / "published.weights.h5")
    keras.src.legacy.saving.legacy_h5_format.save_model_to_hdf5(published, tmp_path / "whole.h5")
    import h5py

    with h5py.File(tmp_path / "whole.h5") as whole, h5py.File(tmp_path / "notop.h5", "w") as alone:
        group = whole["model_weights"]
        alone.attrs.update(dict(group.attrs))
        for key in group:
            group.copy(key, alone)
    backbone = build_backbone(name, 64)
    load_into(backbone, tmp_path / "notop.h5", name, "it")
    convolution = next(layer for layer in published.layers if isinstance(layer, keras.layers.Conv2D))
    pixels = np.random.default_rng(0).normal(size=(2, *convolution.input.shape[1:])).astype("float32")
    ours = next(layer for layer in backbone.layers if isinstance(layer, keras.layers.Conv2D))
    np.testing.assert_allclose(
        keras.Model(ours.input, backbone.output).predict(pixels, verbose=0),
        keras.Model(convolution.input, published.output).predict(pixels, verbose=0),
        rtol=1e-4,
        atol=1e-5,
    )


def test_a_registered_model_gives_all_layers_that_fit(workspace: Workspace, content: dict[str, Any]) -> None:
    keras.utils.set_random_seed(11)
    champion = build("cancernet", image_size=16)
    run_id = served(workspace, champion)
    for asked in ("models:/histopipe-idc@champion", "models:/histopipe-idc/1"):
        record = fetch_weights("cancernet", starting(content, "cancernet", asked), workspace)
        assert record.origin == {"model": "histopipe-idc", "version": "1", "run_id": run_id}
    file = workspace.weights("cancernet") / "model.keras"
    same, other = build("cancernet", image_size=16), build("cancernet", image_size=32)
    assert load_into(same, file, None, "it") == (len(same.weights), len(same.weights))
    for mine, champions in zip(same.get_weights(), champion.get_weights(), strict=True):
        np.testing.assert_allclose(mine, champions, rtol=1e-6)
    taken = load_into(other, file, None, "it")
    assert taken == (len(other.weights) - 2, len(other.weights))  # all but the dense layer behind the larger map
    np.testing.assert_array_equal(other.layers[2].get_weights()[0], champion.layers[2].get_weights()[0])


def test_a_registered_models_cases_are_told_and_make_a_test_of_them_leaky(
    workspace: Workspace, content: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The trainings behind it count too; cases of another data set don't."""
    ready_set(workspace, content)
    tested = min(cases_of_test(workspace))
    record = {"dataset": "idc", "train_cases": ["a"], "validation_cases": ["b"]}
    run_id = served(workspace, build("cancernet", image_size=16))
    params = starting(content, "cancernet", "models:/histopipe-idc/1")
    for before, leaky in (({"malaria": [tested]}, False), ({"idc": [tested]}, True)):
        open_client(workspace).log_dict(run_id, record | {"seen_before": before}, "promotion/run.json")
        found = fetch_weights("cancernet", params, workspace)
        assert found.seen == before | {"idc": sorted({"a", "b", *before.get("idc", [])})}
        assert Weights.read(workspace.weights("cancernet")) == found
        assert plan_training("idc", "cancernet", params, workspace).leaky is leaky
    assert f"trained on 1 of today's test cases (first: {tested})" in caplog.text


def test_of_a_file_from_elsewhere_nobody_knows_what_it_has_seen(
    workspace: Workspace, content: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ready_set(workspace, content)
    build("cancernet", image_size=16).save(tmp_path / "model.keras")
    params = starting(content, "cancernet", str(tmp_path / "model.keras"))
    found = fetch_weights("cancernet", params, workspace)
    assert (found.seen, found.cases_known) == (None, False)
    assert plan_training("idc", "cancernet", params, workspace).leaky == "unknown"
    assert "it is unknown which cases the weights it started from were trained on" in caplog.text
    earlier = {"weights": {"asked": "elsewhere.keras"}, "seen_before": {}, "leaky": False}
    assert starts_from_unknown(earlier), "by a record from before there was a third state"
    assert not starts_from_unknown({"weights": {"asked": "imagenet"}, "seen_before": {}, "leaky": False})


@pytest.mark.parametrize(("before", "leaky"), [({}, False), ({"unknown_before": True}, "unknown")])
def test_of_a_trainings_own_file_the_record_beside_it_tells(
    workspace: Workspace, content: dict[str, Any], before: dict[str, Any], leaky: bool | str
) -> None:
    ready_set(workspace, content)
    folder = workspace.model("idc", "histonet")
    folder.mkdir(parents=True)
    build("cancernet", image_size=16).save(folder / "model.keras")
    record = {"dataset": "idc", "train_cases": ["a"], "validation_cases": ["b"], "seen_before": {}} | before
    write_json(folder / "run.json", record)
    params = starting(content, "cancernet", "models/idc/histonet/model.keras")
    assert fetch_weights("cancernet", params, workspace).seen == {"idc": ["a", "b"]}
    assert plan_training("idc", "cancernet", params, workspace).leaky == leaky
    write_json(folder / "run.json", record | {"train_cases": [min(cases_of_test(workspace))]})
    fetch_weights("cancernet", params, workspace)
    assert plan_training("idc", "cancernet", params, workspace).leaky is True


def test_a_model_that_was_registered_by_hand_is_unknown_and_so_is_what_starts_from_one_that_is(
    workspace: Workspace, content: dict[str, Any]
) -> None:
    ready_set(workspace, content)
    run_id = served(workspace, build("cancernet", image_size=16))
    params = starting(content, "cancernet", "models:/histopipe-idc/1")
    fetch_weights("cancernet", params, workspace)
    assert plan_training("idc", "cancernet", params, workspace).leaky == "unknown"
    record = {"dataset": "idc", "train_cases": ["a"], "validation_cases": ["b"]}
    for unknown, leaky in ((True, "unknown"), (False, False)):
        open_client(workspace).log_dict(run_id, record | {"unknown_before": unknown}, "promotion/run.json")
        fetch_weights("cancernet", params, workspace)
        assert plan_training("idc", "cancernet", params, workspace).leaky == leaky


def test_a_test_case_that_a_registered_model_saw_under_another_id_is_leaky(
    workspace: Workspace, content: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """As another hospital's database calls it: told by the digests that the model's training recorded."""
    ready_set(workspace, content)
    index = read_index(workspace.store("idc"))
    tested = min(cases_of_test(workspace))
    patches = sorted(index.loc[index["case_id"] == tested, "digest"])
    run_id = served(workspace, build("cancernet", image_size=16))
    params = starting(content, "cancernet", "models:/histopipe-idc/1")
    record = {"dataset": "idc", "train_cases": ["a"], "validation_cases": ["b"]}
    others = [f"{number:032x}" for number in range(50)]
    samples = {" ".join(others): False, " ".join(sorted([*others, patches[-1]])): False, " ".join(patches): True}
    for own in ({"data": {"digests": sample}} for sample in samples):
        for entry in (own, {"samples_before": [own["data"]["digests"]]}):
            open_client(workspace).log_dict(run_id, record | entry, "promotion/run.json")
            found = fetch_weights("cancernet", params, workspace)
            assert Weights.read(workspace.weights("cancernet")) == found
            leaky = plan_training("idc", "cancernet", params, workspace).leaky
            assert leaky is samples[own["data"]["digests"]], entry
    assert f"the patches of 1 of today's test cases under other ids (first: {tested})" in caplog.text
    content["quick"] = {"max_epochs": 1, "max_patches": 40}
    assert train("idc", "cancernet", parse_params(content), workspace)["samples_before"] == [" ".join(patches)]


def test_a_copy_of_a_case_that_weights_saw_is_leaky_where_both_lie_in_the_store(
    workspace: Workspace, content: dict[str, Any]
) -> None:
    ready_set(workspace, content)
    path = workspace.store("idc") / INDEX_FILE
    index = pd.read_parquet(path)
    tested = min(cases_of_test(workspace))
    trained = min(set(index["case_id"]) - cases_of_test(workspace))
    index.loc[index["case_id"] == tested, "digest"] = index.loc[index["case_id"] == trained, "digest"].to_numpy()
    index.to_parquet(path)
    run_id = served(workspace, build("cancernet", image_size=16))
    params = starting(content, "cancernet", "models:/histopipe-idc/1")
    for seen, leaky in (([trained], True), (["a"], False)):
        record = {"dataset": "idc", "train_cases": seen, "validation_cases": ["b"]}
        open_client(workspace).log_dict(run_id, record, "promotion/run.json")
        fetch_weights("cancernet", params, workspace)
        assert plan_training("idc", "cancernet", params, workspace).leaky is leaky


def test_weights_kept_by_a_record_that_says_nothing_of_unknown_cases_are_looked_up_again(
    workspace: Workspace, content: dict[str, Any]
) -> None:
    """The version stays; what stands behind it is read again, and is unknown where it can't be."""
    ready_set(workspace, content)
    run_id = served(workspace, build("cancernet", image_size=16))
    record = {"dataset": "idc", "train_cases": ["a"], "validation_cases": ["b"]}
    open_client(workspace).log_dict(run_id, record | {"unknown_before": True}, "promotion/run.json")
    params = starting(content, "cancernet", "models:/histopipe-idc@champion")
    fetch_weights("cancernet", params, workspace)
    served(workspace, build("cancernet", image_size=16))
    path = workspace.weights("cancernet") / "weights.json"

    def older() -> None:
        write_json(path, {key: value for key, value in read_json(path).items() if key != "unknown"})

    older()
    assert plan_training("idc", "cancernet", params, workspace).leaky == "unknown", "also before it is looked up"
    for before, leaky in ((True, "unknown"), (False, False)):
        open_client(workspace).log_dict(run_id, record | {"unknown_before": before}, "promotion/run.json")
        older()
        found = fetch_weights("cancernet", params, workspace)
        assert found.origin and found.origin["version"] == "1", "the alias has moved on, these weights haven't"
        assert read_json(path)["unknown"] is before
        assert plan_training("idc", "cancernet", params, workspace).leaky == leaky
    older()
    open_client(workspace).delete_model_version("histopipe-idc", "1")
    found = fetch_weights("cancernet", params, workspace)
    assert (found.seen, found.unknown) == ({"idc": ["a", "b"]}, None)
    assert plan_training("idc", "cancernet", params, workspace).leaky == "unknown"


def cases_of_test(workspace: Workspace) -> set[str]:
    split = pd.read_csv(workspace.split("idc"), dtype=str)
    return set(split.loc[split["split"] == "test", "case_id"])


def test_an_alias_stays_with_its_version_until_it_is_looked_up_anew(
    workspace: Workspace, content: dict[str, Any]
) -> None:
    """A sweep of learning rates must not go over to another champion on its way."""
    params, found = starting(content, "cancernet", "models:/histopipe-idc@champion"), []
    served(workspace, build("cancernet", image_size=16))
    found.append(fetch_weights("cancernet", params, workspace))
    served(workspace, build("cancernet", image_size=16))
    content["recipes"]["cancernet"]["optimizer"]["learning_rate"] = 0.5
    found.append(fetch_weights("cancernet", parse_params(content), workspace))
    assert found[0] == found[1] == read_weights("cancernet", params, workspace)
    found.append(fetch_weights("cancernet", starting(content, "cancernet", "models:/histopipe-idc/1"), workspace))
    found.append(fetch_weights("cancernet", params, workspace))  # its `weights:` was another in between
    served(workspace, build("cancernet", image_size=16))
    found.append(fetch_weights("cancernet", params, workspace, refresh=True))
    assert [each.origin["version"] for each in found if each.origin] == ["1", "1", "1", "2", "3"]
    assert len({each.sha256 for each in found}) == 3


def test_the_command_says_which_version_it_keeps_or_takes(
    workspace: Workspace, content: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    starting(content, "cancernet", "models:/histopipe-idc@champion")
    workspace.params.write_text(yaml.safe_dump(content))
    monkeypatch.chdir(workspace.root)
    for options, version in (([], 1), ([], 1), (["--force"], 3)):
        served(workspace, build("cancernet", image_size=16))
        done = CliRunner().invoke(main, ["weights", "cancernet", *options])
        said = f"cancernet: models:/histopipe-idc@champion, model.keras, version {version}\n"
        assert (done.exit_code, done.stdout) == (0, said)


def test_a_training_from_the_champion_names_its_version_and_run(workspace: Workspace, content: dict[str, Any]) -> None:
    """And starts from it as it is served, calibration included."""
    ready_set(workspace, content)
    keras.utils.set_random_seed(13)
    champion = build("cancernet", image_size=16)
    run_id = served(workspace, champion, temperature=2.0, offset=0.5)
    content["recipes"]["cancernet"]["model"]["image_size"] = 16
    content["recipes"]["cancernet"]["optimizer"]["learning_rate"] = 1e-12  # what it starts from is what it ends with
    params = starting(content, "cancernet", "models:/histopipe-idc@champion", max_epochs=1, max_patches=40)
    found = fetch_weights("cancernet", params, workspace)
    record = train("idc", "cancernet", params, workspace)
    origin = {"model": "histopipe-idc", "version": "1", "run_id": run_id}
    asked = {"asked": "models:/histopipe-idc@champion", "file": "model.keras", "sha256": found.sha256}
    count = len(champion.weights)
    assert record["weights"] == asked | origin | {"taken": count, "variables": count}
    tags = current_client().get_run(record["run_id"]).data.tags
    assert {key: tags[f"weights_{key}"] for key in asked | origin} == asked | origin

    trained = keras.saving.load_model(workspace.model("idc", "cancernet") / "model.keras", safe_mode=True)
    kernel, bias = champion.get_layer(OUTPUT_LAYER).get_weights()
    for mine, expected in zip(trained.get_layer(OUTPUT_LAYER).get_weights(), (kernel / 2, bias / 2 + 0.5), strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-4)
    np.testing.assert_allclose(trained.layers[2].get_weights()[0], champion.layers[2].get_weights()[0], rtol=1e-4)


def ready_set(workspace: Workspace, content: dict[str, Any]) -> None:
    """A small data set, ingested and split."""
    write_zip(workspace.raw("idc") / "archive.zip", idc_members(cases=12, patches=6))
    ingest("idc", parse_params(content), workspace)
    split("idc", parse_params(content), workspace)


def test_a_network_that_averages_over_symmetries_gives_all_its_layers(tmp_path: Path) -> None:
    keras.utils.set_random_seed(12)
    champion, fresh = (build("histonet", image_size=32, width=8) for _ in range(2))
    averaged_over_symmetries(champion).save(tmp_path / "champion.keras")
    assert load_into(fresh, tmp_path / "champion.keras", None, "it") == (len(fresh.weights), len(fresh.weights))
    for ours, champions in zip(fresh.get_weights(), champion.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, champions)


@pytest.mark.parametrize(("name", "depths"), [("wide_resnet", ({"depth": 16}, {"depth": 10})), ("histonet", HISTONETS)])
def test_a_network_of_another_depth_is_refused_rather_than_taken_in_part(
    name: str, depths: tuple[dict[str, int], dict[str, int]], tmp_path: Path
) -> None:
    """Their layers have names by number: `conv2d_7` of one is not that of the other, whatever the shapes."""
    build(name, image_size=16, width=2, **depths[0]).save(tmp_path / "deep.keras")
    keras.utils.clear_session()  # so that numbers begin anew, as in the process that trains
    shallow = build(name, image_size=16, width=2, **depths[1])
    before = shallow.get_weights()
    with pytest.raises(WeightsError, match=r"^it has no layer that fits this network: give weights of the same"):
        load_into(shallow, tmp_path / "deep.keras", None, "it")
    for now, then in zip(shallow.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_layers_whose_names_were_chosen_are_taken_from_a_network_of_another_depth(tmp_path: Path) -> None:
    def network(*names: str | None) -> keras.Model:
        return keras.Sequential([keras.Input((3,)), *(keras.layers.Dense(3, name=name) for name in names)])

    source, target = network("first", None, "last"), network("first", None, None, "last")
    source.save(tmp_path / "source.keras")
    assert load_into(target, tmp_path / "source.keras", None, "it") == (4, 8)
    for name in ("first", "last"):
        np.testing.assert_array_equal(target.get_layer(name).kernel, source.get_layer(name).kernel)


def test_what_is_out_of_date_or_damaged_is_not_trained_on(
    workspace: Workspace, content: dict[str, Any], squeezenet_file: Path
) -> None:
    params = starting(content, "squeezenet", str(squeezenet_file))
    with pytest.raises(WeightsError, match=r"is missing: run `dvc repro weights@squeezenet`"):
        read_weights("squeezenet", params, workspace)
    fetch_weights("squeezenet", params, workspace)
    with pytest.raises(WeightsError, match=r"holds .*squeezenet.weights.h5 weights, but recipes.squeezenet names imag"):
        read_weights("squeezenet", starting(content, "squeezenet", "imagenet"), workspace)
    with (workspace.weights("squeezenet") / squeezenet_file.name).open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(WeightsError, match="missing or damaged: run `dvc checkout"):
        read_weights("squeezenet", params, workspace)


def test_other_weights_make_another_digest(
    workspace: Workspace, content: dict[str, Any], squeezenet_file: Path
) -> None:
    params, found = starting(content, "squeezenet", str(squeezenet_file)), []
    for seed in (1, 2):
        keras.utils.set_random_seed(seed)
        build_backbone("squeezenet", 32).save_weights(squeezenet_file)
        fetch_weights("squeezenet", params, workspace)
        found.append(recipe_digest(params, "squeezenet", weights_digest("squeezenet", params, workspace)))
    assert found[0] != found[1]
    assert weights_digest("squeezenet", starting(content, "squeezenet", "random"), workspace) is None


def test_a_training_says_what_it_started_from(
    workspace: Workspace, content: dict[str, Any], squeezenet_file: Path
) -> None:
    """The frozen backbone in the trained file is the one that was given."""
    write_zip(workspace.raw("idc") / "archive.zip", idc_members(cases=12, patches=6))
    content["recipes"]["squeezenet"]["model"] |= {"trainable": "head", "image_size": 32}
    content["recipes"]["squeezenet"] |= {"schedule": {"name": "constant"}, "keep": "last"}
    params = starting(content, "squeezenet", str(squeezenet_file), max_epochs=1)
    ingest("idc", params, workspace)
    split("idc", params, workspace)
    fetch_weights("squeezenet", params, workspace)
    record = train("idc", "squeezenet", params, workspace)
    sha256 = file_digest(squeezenet_file)
    assert record["weights"] == {
        "asked": str(squeezenet_file),
        "backbone": "squeezenet",
        "file": squeezenet_file.name,
        "sha256": sha256,
        "path": str(squeezenet_file),
        "taken": 50,
        "variables": 56,
    }
    run = current_client().get_run(record["run_id"])
    assert run.data.params["weights"] == str(squeezenet_file)
    assert run.data.tags["weights_sha256"] == sha256
    trained = keras.saving.load_model(workspace.model("idc", "squeezenet") / "model.keras", safe_mode=True)
    given = build_backbone("squeezenet", 32)
    given.load_weights(squeezenet_file)
    for mine, theirs in zip(trained.get_layer(BACKBONE_LAYER).get_weights(), given.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("trainable", ["all", "head"])
def test_the_published_file_is_worth_its_epochs_on_real_cells(
    workspace: Workspace, content: dict[str, Any], real: Callable[[str], Path], trainable: str
) -> None:
    """Fine-tuned whole or by its head, it ranks a case's cells better than the same training from random weights."""
    workspace.raw("malaria").mkdir(parents=True)
    shutil.copy(real("malaria-sample.zip"), workspace.raw("malaria") / "archive.zip")
    content["datasets"] = ["malaria"]
    content["recipes"]["squeezenet"]["model"] |= {"trainable": trainable, "image_size": 48}
    content["recipes"]["squeezenet"] |= {"schedule": {"name": "constant"}, "keep": "last"}
    reached = {}
    for asked in (str(real(f"weights/{SQUEEZENET_FILE}")), "random"):
        params = starting(content, "squeezenet", asked, max_epochs=2, max_patches=800)
        if not reached:
            ingest("malaria", params, workspace)
            split("malaria", params, workspace)
        fetch_weights("squeezenet", params, workspace)
        train("malaria", "squeezenet", params, workspace)
        model = workspace.model("malaria", "squeezenet")
        reached[asked] = pd.read_csv(model / "history.csv")["validation/roc_auc"].mean()  # over both epochs
        if asked != "random":
            tuned = keras.saving.load_model(model / "model.keras").get_layer(BACKBONE_LAYER)
            given = build_backbone("squeezenet", 48)
            load_into(given, real(f"weights/{SQUEEZENET_FILE}"), "squeezenet", "it")
            pairs = zip(tuned.get_weights(), given.get_weights(), strict=True)
            assert [np.array_equal(*pair) for pair in pairs] == [trainable == "head"] * len(given.weights)
    published, random = reached.values()
    assert published > random + 0.03, reached


def test_the_cap_of_weights_is_random_or_nothing(content: dict[str, Any]) -> None:
    content["quick"]["weights"] = "imagenet"
    with pytest.raises(ParamsError, match=r"quick\.weights"):
        parse_params(content)
