"""Training: repeatable, resumable in the same run, and honest about what it saw."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from typing import Any

import keras
import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml

from histopipe.core.errors import ChangedInputError, HistopipeError, TrainingError
from histopipe.core.files import read_json
from histopipe.core.params import parse_params
from histopipe.core.workspace import Workspace
from histopipe.data.sampling import balanced_weights, cap_rows, epoch_order
from histopipe.data.splitting.membership import read_membership
from histopipe.data.splitting.stage import split
from histopipe.data.store import PatchStore
from histopipe.ingest.stage import ingest
from histopipe.networks.architectures import build
from histopipe.tracking.stores import current_client, prepare_experiment
from histopipe.training import loop as training_loop
from histopipe.training.batch_norm import refresh_batch_norm, statistics_batch
from histopipe.training.loading import PatchBatches
from histopipe.training.plan import plan_training
from histopipe.training.recipe import recipe_digest
from histopipe.training.stage import train
from tests.builders.archives import idc_members, write_zip
from tests.builders.paths import ROOT


@pytest.fixture
def ready(workspace: Workspace, content: dict[str, Any]) -> Workspace:
    """A small data set, ingested and split."""
    write_zip(workspace.raw("idc") / "archive.zip", idc_members(cases=12, patches=12))
    ingest("idc", parse_params(content), workspace)
    split("idc", parse_params(content), workspace)
    return workspace


@pytest.fixture
def small(content: dict[str, Any]) -> Any:
    content["train"]["deterministic"] = True
    content["quick"] = {"max_epochs": 4}
    content["recipes"]["cancernet"]["model"]["image_size"] = 16
    return content


@pytest.fixture
def smallest(small: dict[str, Any]) -> Any:
    """One epoch, where it matters only that something is trained."""
    small["quick"] = {"max_epochs": 1, "max_patches": 40}
    return small


def history(workspace: Workspace) -> pd.DataFrame:
    return pd.read_csv(workspace.model("idc", "cancernet") / "history.csv").drop(
        columns=["seconds", "patches_per_second"]
    )


AVERAGED = {
    "keep": "average",
    "average_momentum": 0.9,
    "schedule": {"name": "cosine", "warmup_epochs": 1},
    "optimizer": {"name": "adamw", "learning_rate": 0.01, "options": {"weight_decay": 0.05}},
    "augmentation": {"quarter_turns": True, "stain": 0.2},
    "imbalance": "balanced_batches",
    "label_smoothing": 0.1,
}
BEST = {
    "keep": "best",
    "schedule": {"name": "plateau", "patience": 1},
    "optimizer": {"name": "adam", "learning_rate": 0.01},
    "imbalance": "focal",
}


@pytest.mark.parametrize(
    "changes",
    [{}, *(pytest.param(each, marks=pytest.mark.long) for each in (AVERAGED, BEST))],
    ids=["as it is", "averaged", "best epoch"],
)
def test_a_killed_training_resumes_in_its_run_and_ends_as_if_nothing_had_happened(
    ready: Workspace, small: dict[str, Any], changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    small["recipes"]["cancernet"] |= changes
    params = parse_params(small)
    undisturbed = train("idc", "cancernet", params, ready)
    expected, weights = history(ready), trained_weights(ready)
    (ready.checkpoint("idc", "cancernet") / "checkpoint.npz").unlink()

    real_epoch, ran = training_loop._train_epoch, []

    def dies_in_the_third(*arguments: Any) -> dict[str, float]:
        ran.append(arguments[-1])
        if arguments[-1] == 2:
            raise KeyboardInterrupt
        return real_epoch(*arguments)

    monkeypatch.setattr(training_loop, "_train_epoch", dies_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        train("idc", "cancernet", params, ready)
    monkeypatch.setattr(training_loop, "_train_epoch", lambda *a: (ran.append(a[-1]), real_epoch(*a))[1])
    resumed = train("idc", "cancernet", params, ready)

    assert ran == [0, 1, 2, 2, 3]
    pd.testing.assert_frame_equal(history(ready), expected, check_exact=True)
    for before, after in zip(weights, trained_weights(ready), strict=True):
        np.testing.assert_array_equal(before, after)
    runs = finished_runs(ready)
    assert set(runs) == {undisturbed["run_id"], resumed["run_id"]}
    steps = current_client().get_metric_history(resumed["run_id"], "train/loss")
    assert [metric.step for metric in steps] == [1, 2, 3, 4]


def trained_weights(workspace: Workspace) -> list[np.ndarray]:
    loaded = keras.saving.load_model(workspace.model("idc", "cancernet") / "model.keras")
    return list(loaded.get_weights())


def finished_runs(workspace: Workspace) -> list[str]:
    experiment = prepare_experiment(workspace, "idc")
    return [run.info.run_id for run in current_client().search_runs([experiment]) if run.info.status == "FINISHED"]


def test_fresh_batch_norm_statistics_are_those_in_use(ready: Workspace) -> None:
    """Without dropout, which would shift what the later norms see; weights and settings stay as they are."""
    store, network = PatchStore.open(ready.store("idc")), build("cancernet")
    weights = [variable.numpy() for variable in network.trainable_variables]
    refresh_batch_norm(network, store, np.arange(128), batch_size=128)
    patches = store.gather(np.arange(128))
    norms = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for norm in (norms[0], norms[-1]):
        seen = keras.Model(network.input, norm.input).predict(patches, batch_size=128, verbose=0)
        axes = tuple(range(seen.ndim - 1))
        np.testing.assert_allclose(norm.moving_mean, seen.mean(axis=axes), rtol=1e-2, atol=1e-3)
        np.testing.assert_allclose(norm.moving_variance, seen.var(axis=axes), rtol=1e-2, atol=1e-3)
        assert norm.momentum == 0.99
    assert [layer.rate for layer in network.layers if isinstance(layer, keras.layers.Dropout)] == [0.25] * 3 + [0.5]
    for before, after in zip(weights, network.trainable_variables, strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    ("image_size", "trained", "taken"), [(32, 32, 512), (48, 32, 128), (64, 32, 128), (224, 16, 16)]
)
def test_batch_norm_statistics_take_as_many_patches_as_memory_allows(image_size: int, trained: int, taken: int) -> None:
    """Keras keeps what every layer gives: 128 images of 224 px would take 40 GB with DenseNet201."""
    assert statistics_batch(image_size, trained) == taken


def test_a_kill_before_the_first_epoch_leaves_one_run(
    ready: Workspace, smallest: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first process dies without a word, as by SIGKILL: its run stays RUNNING, and the next one takes it up."""

    def dies(*arguments: Any) -> None:
        mlflow.tracking.fluent._active_run_stack.get().clear()  # nothing closes the run
        raise SystemExit(9)

    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(training_loop, "run_epochs", dies)
        train("idc", "cancernet", parse_params(smallest), ready)
    record = train("idc", "cancernet", parse_params(smallest), ready)
    experiment = prepare_experiment(ready, "idc")
    runs = [(run.info.run_id, run.info.status) for run in current_client().search_runs([experiment])]
    assert runs == [(record["run_id"], "FINISHED")]


def put_on_record(workspace: Workspace) -> None:
    """As `dvc repro` leaves a training that it saw to its end."""
    content = (workspace.model("idc", "cancernet") / "run.json").read_bytes()
    out = {"path": "models/idc/cancernet/run.json", "md5": hashlib.md5(content).hexdigest()}
    workspace.dvc_lock.write_text(yaml.safe_dump({"stages": {"train@idc-cancernet": {"outs": [out]}}}))


def test_a_training_anew_does_not_join_the_run_of_a_killed_evaluation(
    ready: Workspace, smallest: dict[str, Any]
) -> None:
    first = train("idc", "cancernet", parse_params(smallest), ready)["run_id"]
    put_on_record(ready)
    current_client().update_run(first, status="RUNNING")  # as the evaluation's kill leaves it
    second = train("idc", "cancernet", parse_params(smallest), ready)["run_id"]
    assert second != first
    assert len(current_client().get_metric_history(second, "train/loss")) == 1
    assert current_client().get_run(first).info.status == "KILLED"


def test_what_dvc_has_on_record_is_trained_anew_on_request(ready: Workspace, smallest: dict[str, Any]) -> None:
    """Killed before DVC recorded it: taken as it is. Recorded and started again: someone wants it anew."""
    first = train("idc", "cancernet", parse_params(smallest), ready)
    assert train("idc", "cancernet", parse_params(smallest), ready)["run_id"] == first["run_id"]
    put_on_record(ready)
    assert train("idc", "cancernet", parse_params(smallest), ready)["run_id"] != first["run_id"]


def test_an_upgraded_lock_is_not_taken_for_the_same_training(ready: Workspace, smallest: dict[str, Any]) -> None:
    (ready.root / "requirements.lock").write_text("keras==3.15.1")
    before = train("idc", "cancernet", parse_params(smallest), ready)
    (ready.root / "requirements.lock").write_text("keras==3.16.0")
    assert train("idc", "cancernet", parse_params(smallest), ready)["run_id"] != before["run_id"]


@pytest.mark.parametrize(
    ("path", "value"),
    [("model.image_size", 4), ("model.image_size", "big"), ("model.dropout", 1.5), ("optimizer.options", {"foo": 1})],
)
def test_recipes_that_keras_refuses_end_with_one_line(
    ready: Workspace, small: dict[str, Any], path: str, value: Any
) -> None:
    section, key = path.split(".")
    small["recipes"]["cancernet"][section][key] = value
    with pytest.raises(HistopipeError) as caught:
        train("idc", "cancernet", parse_params(small), ready)
    assert "\n" not in str(caught.value)


def test_a_deleted_experiment_is_named(ready: Workspace, small: dict[str, Any]) -> None:
    experiment = prepare_experiment(ready, "idc")
    current_client().delete_experiment(experiment)
    with pytest.raises(HistopipeError, match="was deleted: run `mlflow experiments restore"):
        train("idc", "cancernet", parse_params(small), ready)


def test_a_change_of_recipe_starts_afresh(ready: Workspace, smallest: dict[str, Any]) -> None:
    first = train("idc", "cancernet", parse_params(smallest), ready)
    smallest["recipes"]["cancernet"]["batch_size"] = 16
    second = train("idc", "cancernet", parse_params(smallest), ready)
    assert first["run_id"] != second["run_id"]
    assert first["recipe_digest"] != second["recipe_digest"]


def test_the_run_says_what_it_was_made_from(ready: Workspace, content: dict[str, Any]) -> None:
    content["quick"] = {"max_epochs": 1, "max_patches": 60}
    content["recipes"]["cancernet"]["model"]["image_size"] = 16
    content["idc"]["source"] = "https://me:word@example.org/idc.zip?token=word"
    record = train("idc", "cancernet", parse_params(content), ready)
    assert record == read_json(ready.model("idc", "cancernet") / "run.json")
    run = current_client().get_run(record["run_id"])
    assert run.info.run_name == "cancernet"
    assert run.data.tags["quick"] == "true"
    assert run.data.tags["source"] == "https://example.org/idc.zip?token=..."
    assert "leaky" not in run.data.tags
    assert run.data.params["optimizer.learning_rate"] == "0.01"
    assert run.data.params["train_patches"] == "60"
    assert {entry.dataset.name for entry in run.inputs.dataset_inputs} == {
        "data/store/idc",
        "data/splits/idc.csv",
    }
    assert {"train/loss", "validation/roc_auc", "learning_rate"} <= set(run.data.metrics)
    (epoch,) = pd.read_csv(ready.model("idc", "cancernet") / "history.csv").to_dict(orient="records")
    assert record["effort"]["seconds"] == epoch["seconds"]
    assert record["effort"]["patches_per_second"] == pytest.approx(60 / epoch["seconds"], rel=0.02)
    assert 100 < record["effort"]["peak_memory_mb"] < 100_000
    assert record["versions"]["keras"] == keras.__version__
    plots = {artifact.path for artifact in current_client().list_artifacts(record["run_id"], "plots")}
    assert plots == {"plots/history.csv", "plots/history.png"}
    assert (ready.root / "mlartifacts" / record["run_id"] / "artifacts" / "plots" / "history.png").exists()


def test_training_never_sees_a_test_case(ready: Workspace, content: dict[str, Any]) -> None:
    content["quick"] = {"max_epochs": 1}
    content["recipes"]["cancernet"]["model"]["image_size"] = 16
    record = train("idc", "cancernet", parse_params(content), ready)
    table = read_membership(ready.split("idc"))
    tested = set(table.loc[table["split"] == "test", "case_id"])
    assert tested
    assert not tested & {*record["train_cases"], *record["validation_cases"]}


def test_a_leaky_split_tags_the_run(ready: Workspace, content: dict[str, Any]) -> None:
    content["split"]["scheme"] = "random"
    content["quick"] = {"max_epochs": 1}
    content["recipes"]["cancernet"]["model"]["image_size"] = 16
    split("idc", parse_params(content), ready)
    record = train("idc", "cancernet", parse_params(content), ready)
    assert record["leaky"]
    assert current_client().get_run(record["run_id"]).data.tags["leaky"] == "true"


def test_the_best_epoch_is_kept_and_a_training_without_progress_ends(
    ready: Workspace, small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation is best in the second epoch of six; two worse ones later, the training ends."""
    small["recipes"]["cancernet"] |= {"keep": "best", "early_stopping": 2}
    small["quick"] = {"max_epochs": 6}
    scores = iter([0.6, 0.8, 0.7, 0.75, 0.9, 0.95])
    seen: list[list[np.ndarray]] = []

    def graded(training: Any, logits: keras.Model) -> dict[str, float]:
        seen.append(logits.get_weights())
        return {"validation/loss": 0.5, "validation/roc_auc": next(scores), "validation/accuracy": 0.5}

    monkeypatch.setattr(training_loop, "compute_validation_metrics", graded)
    record = train("idc", "cancernet", parse_params(small), ready)
    assert (record["epochs"], record["best_epoch"]) == (4, 2)
    for kept, second in zip(trained_weights(ready), seen[1], strict=True):
        np.testing.assert_array_equal(kept, second)


def test_a_resumed_training_stops_early_where_it_would_have_without_a_kill(
    ready: Workspace, small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation is best in the second epoch; the kill comes in the third, the end after the fourth of six."""
    small["recipes"]["cancernet"] |= {"keep": "best", "early_stopping": 2}
    small["quick"] = {"max_epochs": 6}
    scores = iter([0.6, 0.8, None, 0.7, 0.75, 0.9, 0.95])

    def graded(training: Any, logits: keras.Model) -> dict[str, float]:
        score = next(scores)
        if score is None:
            raise KeyboardInterrupt
        return {"validation/loss": 0.5, "validation/roc_auc": score, "validation/accuracy": 0.5}

    monkeypatch.setattr(training_loop, "compute_validation_metrics", graded)
    with pytest.raises(KeyboardInterrupt):
        train("idc", "cancernet", parse_params(small), ready)
    record = train("idc", "cancernet", parse_params(small), ready)
    assert (record["epochs"], record["best_epoch"]) == (4, 2)


def test_averaged_weights_are_those_of_the_formula(ready: Workspace, small: dict[str, Any]) -> None:
    """After n steps, the average is m times the one before plus 1 - m times the weights, from the first step's on."""
    small["recipes"]["cancernet"] |= AVERAGED | {"average_momentum": 0.5, "batch_size": 64}
    small["quick"] = {"max_epochs": 40}
    params = parse_params(small)
    plan = plan_training("idc", "cancernet", params, ready)
    _, trainer = training_loop.build_training(plan)
    assert trainer.optimizer.ema_momentum == 0.5  # the recipe's, since the training is long enough
    expected: np.ndarray | None = None
    for number in range(2):
        patches, labels, _ = training_loop._batches(plan, 0)[number]
        trainer.train_on_batch(patches, labels)
        now = trainer.trainable_variables[0].numpy()
        expected = now if expected is None else 0.5 * expected + 0.5 * now
    with training_loop._averaged_weights(plan, trainer):
        np.testing.assert_allclose(trainer.trainable_variables[0].numpy(), expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(trainer.trainable_variables[0].numpy(), now)


@pytest.mark.long
def test_an_averaged_training_goes_on_from_its_own_weights(ready: Workspace, small: dict[str, Any]) -> None:
    """Keras puts the average in their place at the end of `fit`, and so of every epoch."""
    small["recipes"]["cancernet"] |= AVERAGED
    plan = plan_training("idc", "cancernet", parse_params(small), ready)
    trainers = []
    for _ in range(2):
        keras.utils.set_random_seed(1)
        trainers.append(training_loop.build_training(plan)[1])
    for epoch in range(2):
        batches = training_loop._batches(plan, epoch)
        training_loop._fit(trainers[0], batches, "by epochs")
        for number in range(len(batches)):
            trainers[1].train_on_batch(*batches[number])
    by_epochs, by_steps = (trainer.trainable_variables[0].numpy() for trainer in trainers)
    np.testing.assert_allclose(by_epochs, by_steps, rtol=1e-4, atol=1e-6)
    with training_loop._averaged_weights(plan, trainers[0]):
        assert np.abs(trainers[0].trainable_variables[0].numpy() - by_epochs).max() > 1e-3


def test_a_diverging_training_stops_with_one_line_and_a_failed_run(ready: Workspace, content: dict[str, Any]) -> None:
    content["recipes"]["cancernet"]["optimizer"] = {"name": "sgd", "learning_rate": 1e30}
    content["recipes"]["cancernet"]["model"]["image_size"] = 16
    with pytest.raises(TrainingError, match="lower the recipe's learning rate") as caught:
        train("idc", "cancernet", parse_params(content), ready)
    assert "\n" not in str(caught.value)
    experiment = prepare_experiment(ready, "idc")
    assert [run.info.status for run in current_client().search_runs([experiment])] == ["FAILED"]
    assert not ready.model("idc", "cancernet").exists()


def command_trains(ready: Workspace, content: dict[str, Any], **surroundings: str) -> subprocess.CompletedProcess[str]:
    """`histopipe train idc cancernet` with `content` as params.yaml."""
    ready.params.write_text(yaml.safe_dump(content))
    return subprocess.run(
        [sys.executable, "-m", "histopipe", "train", "idc", "cancernet"],
        cwd=ready.root,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | surroundings,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_ends_a_diverging_training_in_one_line(ready: Workspace, smallest: dict[str, Any]) -> None:
    smallest["recipes"]["cancernet"]["optimizer"] = {"name": "sgd", "learning_rate": 1e30}
    done = command_trains(ready, smallest)
    assert done.returncode == 2
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("histopipe: ")]
    assert re.fullmatch(r"histopipe: idc cancernet: the loss became \w+ in epoch 1: lower .* learning rate", said)
    assert "Traceback" not in done.stderr
    assert read_json(ready.failure("train@idc-cancernet"))["kind"] == "bad_input"
    experiment = prepare_experiment(ready, "idc")
    assert [run.info.status for run in current_client().search_runs([experiment])] == ["FAILED"]
    assert not ready.model("idc", "cancernet").exists()


def test_a_backend_that_cannot_be_deterministic_is_refused(ready: Workspace, smallest: dict[str, Any]) -> None:
    pytest.importorskip("jax")
    done = command_trains(ready, smallest, KERAS_BACKEND="jax", JAX_PLATFORMS="cpu")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "histopipe: train.deterministic: true works on TensorFlow alone, and Keras runs on jax: "
        "set KERAS_BACKEND=tensorflow, or deterministic: false in params.yaml"
    )
    experiment = prepare_experiment(ready, "idc")
    assert not current_client().search_runs([experiment])


def test_the_quick_caps_touch_the_digest_and_not_the_recipe(content: dict[str, Any]) -> None:
    capped = parse_params(content)
    content["quick"] = None
    full = parse_params(content)
    assert recipe_digest(capped, "cancernet") != recipe_digest(full, "cancernet")
    assert capped.recipe("cancernet") == full.recipe("cancernet")


def test_epochs_differ_and_repeat_by_seed() -> None:
    rows = np.arange(1000)
    assert (epoch_order(rows, 1, 0) != epoch_order(rows, 1, 1)).any()
    assert (epoch_order(rows, 1, 3) == epoch_order(rows, 1, 3)).all()
    assert (np.sort(epoch_order(rows, 1, 3)) == rows).all()
    assert (epoch_order(rows, 1, 3, multiple=7) == epoch_order(rows, 1, 3)[:994]).all()
    assert cap_rows(rows, 10, 1).tolist() == sorted(cap_rows(rows, 10, 1).tolist())
    assert len(cap_rows(rows, None, 1)) == 1000


def test_class_weights_are_the_largest_count_over_each() -> None:
    assert balanced_weights(np.array([0, 0, 0, 1])) == (1.0, 3.0)


def test_batches_carry_patches_labels_and_weights_in_order(ready: Workspace) -> None:
    store = PatchStore.open(ready.store("idc"))
    rows = np.arange(10)[::-1].copy()
    batches = PatchBatches(store, rows, 4, class_weights=(1.0, 2.5))
    assert len(batches) == 3
    patches, labels, weights = (np.concatenate(parts) for parts in zip(*(batches[i] for i in range(3)), strict=True))
    assert (patches == store.gather(rows)).all()
    assert (labels[:, 0] == store.index["label"].to_numpy()[rows]).all()
    assert (weights == np.where(labels[:, 0] > 0, 2.5, 1.0)).all()


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="it is TensorFlow's pipeline that is tuned")
def test_no_epoch_waits_for_a_tuner_of_the_pipeline(ready: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFlow's sleeps on at the end of a `fit`, now and then, for as long as the epoch took."""
    batches = PatchBatches(PatchStore.open(ready.store("idc")), np.arange(10), 4)
    trainer = keras.Sequential([keras.Input((50, 50, 3)), keras.layers.Flatten(), keras.layers.Dense(1)])
    trainer.compile("sgd", "mse", jit_compile=False)
    fit, given = trainer.fit, []
    monkeypatch.setattr(trainer, "fit", lambda data, **options: given.append(data) or fit(data, **options))
    training_loop._fit(trainer, batches, "idc small")
    (data,) = given
    assert data.options().autotune.enabled is False
    assert len(data) == 3
    for found, expected in zip(data.as_numpy_iterator(), map(batches.__getitem__, range(3)), strict=True):
        assert all((one == other).all() for one, other in zip(found, expected, strict=True))


class OneBatch(keras.utils.PyDataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((32, 2), np.float32), np.zeros((32, 1000), np.float32)


def test_a_lack_of_memory_is_one_line() -> None:
    inputs = keras.Input((2,))
    huge = keras.layers.RepeatVector(2 * 10**9)(keras.layers.Dense(1000)(inputs))  # 256 TB
    trainer = keras.Model(inputs, keras.layers.GlobalAveragePooling1D()(huge))
    trainer.compile("sgd", "mse", jit_compile=False)
    batches: Any = OneBatch()
    with pytest.raises(TrainingError, match=r"^idc wide: out of memory: lower the recipe's batch_size"):
        training_loop._fit(trainer, batches, "idc wide")


def reassign(workspace: Workspace) -> str:
    """Give another split to the cases, as `histopipe split` by hand would; returns the earlier file's text."""
    before = workspace.split("idc").read_text()
    moved = {"train": "test", "test": "train"}
    table = pd.read_csv(workspace.split("idc"), dtype=str)
    table["split"] = table["split"].map(lambda split: moved.get(split, split))
    table.to_csv(workspace.split("idc"), index=False)
    return before


def test_a_split_made_anew_meanwhile_leaves_no_output_and_the_old_one_ends_without_training(
    ready: Workspace, small: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    params, texts = parse_params(small), []

    def in_the_second(progress: Any) -> None:
        if len(progress.history) == 2:
            texts.append(reassign(ready))

    with pytest.raises(ChangedInputError, match=r"idc.csv changed while it ran.*stays in \.checkpoints/idc/cancernet"):
        train("idc", "cancernet", params, ready, after_epoch=in_the_second)
    assert caplog.text.count("idc.csv changed while it runs") == 1  # told before the last epoch, once
    assert not ready.model("idc", "cancernet").exists()
    experiment = prepare_experiment(ready, "idc")
    (run,) = mlflow.search_runs([experiment], output_format="list")
    assert run.info.status == "FAILED"
    assert "changed while it ran" in run.data.tags["dropped"]
    assert "trained" not in run.data.tags

    ready.split("idc").write_text(texts[0])
    monkeypatch.setattr(training_loop, "_train_epoch", lambda *_: pytest.fail("trained again"))
    record = train("idc", "cancernet", params, ready)
    assert record["run_id"] == run.info.run_id
    assert record["split_digest"] == hashlib.sha256(texts[0].encode()).hexdigest()
    assert record["epochs"] == 4
    (run,) = mlflow.search_runs([experiment], output_format="list")
    assert run.info.status == "FINISHED"
    assert "dropped" not in run.data.tags


def test_a_checkpoint_of_other_shapes_is_named_and_the_training_starts_over(
    ready: Workspace, smallest: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    params = parse_params(smallest)
    train("idc", "cancernet", params, ready)
    expected, weights = history(ready), trained_weights(ready)
    path = ready.checkpoint("idc", "cancernet") / "checkpoint.npz"
    with np.load(path, allow_pickle=False) as arrays:
        content = {name: arrays[name] for name in arrays.files}
    content["variable_00003"] = np.zeros((7, 7), np.float32)
    np.savez(path, **content)
    train("idc", "cancernet", params, ready)
    assert f"{path} is damaged" in caplog.text
    pd.testing.assert_frame_equal(history(ready), expected, check_exact=True)
    for before, after in zip(weights, trained_weights(ready), strict=True):
        np.testing.assert_array_equal(before, after)
