"""Precision, compilation and several devices: what is saved is the same kind of network whatever trained it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from histopipe.core.errors import TrainingError
from histopipe.core.params import AugmentationParams, Params, TrainParams
from histopipe.core.workspace import Workspace
from histopipe.data.splitting.stage import split
from histopipe.ingest.stage import ingest
from histopipe.networks.architectures import build
from histopipe.networks.backend import grow_gpu_memory
from histopipe.training.augmentation import RandomAffine
from histopipe.training.checkpoint import CHECKPOINT_FILE, load_progress
from histopipe.training.devices import DEVICES_VARIABLE, Devices, choose_devices
from histopipe.training.loop import build_training
from histopipe.training.plan import plan_training
from histopipe.training.resampling import affine_gather
from histopipe.training.stage import train
from tests.builders.archives import idc_members, write_zip
from tests.builders.paths import ROOT
from tests.builders.trainings import MODEL, run, small


def prepare(workspace: Workspace, params: Params, positives: int = 6) -> Workspace:
    """Twelve cases of six benign patches and so many positive ones."""
    members = idc_members(cases=12, patches=12)
    surplus = {f"_x{50 * number + 1}_" for number in range(1 + 2 * positives, 12, 2)}
    kept = {name: data for name, data in members.items() if not any(place in name for place in surplus)}
    write_zip(workspace.raw("idc") / "archive.zip", kept)
    ingest("idc", params, workspace)
    split("idc", params, workspace)
    return workspace


def saved(workspace: Workspace) -> keras.Model:
    return keras.saving.load_model(workspace.model("idc", "wide_resnet") / "model.keras", safe_mode=True)


def is_plain(network: keras.Model) -> bool:
    layers = network._flatten_layers()
    norms = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
    whole = all(layer.dtype_policy.compute_dtype == layer.dtype_policy.variable_dtype for layer in layers)
    return whole and bool(norms) and not any(norm.synchronized for norm in norms)


def test_on_a_cpu_nothing_is_special() -> None:
    if tf.config.list_physical_devices("GPU"):
        pytest.skip("this machine has a GPU")
    assert choose_devices(TrainParams()) == choose_devices(TrainParams(devices="all")) == Devices()
    assert choose_devices(TrainParams(precision="bfloat16")) == Devices("mixed_bfloat16")


@pytest.mark.gpu
def test_a_gpu_gets_what_it_is_good_at(workspace: Workspace, content: dict[str, Any]) -> None:
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        pytest.skip("needs a GPU")
    capability = tf.config.experimental.get_device_details(gpus[0])["compute_capability"]
    chosen = choose_devices(TrainParams())
    assert chosen.jit_compile is True
    assert chosen.policy == ("mixed_bfloat16" if capability >= (8, 0) else "float32")
    params = small(content)
    train("idc", "wide_resnet", params, prepare(workspace, params))
    assert is_plain(saved(workspace))


def test_a_training_in_bfloat16_saves_a_network_in_float32(workspace: Workspace, content: dict[str, Any]) -> None:
    params = small(content, precision="bfloat16")
    train("idc", "wide_resnet", params, prepare(workspace, params))
    loaded, batch = saved(workspace), np.stack([np.full((50, 50, 3), shade, np.uint8) for shade in (0, 99, 255)])
    assert is_plain(loaded)
    rebuilt = build("wide_resnet", **MODEL)
    rebuilt.set_weights(loaded.get_weights())
    np.testing.assert_array_equal(loaded.predict_on_batch(batch), rebuilt.predict_on_batch(batch))

    _, trainer = build_training(plan_training("idc", "wide_resnet", params, workspace))
    used = {layer.compute_dtype for layer in trainer._flatten_layers() if isinstance(layer, keras.layers.Conv2D)}
    assert used == {"bfloat16"}
    assert {variable.dtype for variable in trainer.trainable_variables} == {"float32"}


def test_the_precision_of_the_surroundings_is_restored() -> None:
    with pytest.raises(ZeroDivisionError), Devices("mixed_bfloat16").building():
        assert keras.config.dtype_policy().compute_dtype == "bfloat16"
        raise ZeroDivisionError
    assert keras.config.dtype_policy().name == "float32"


def test_memory_is_asked_for_at_any_time() -> None:
    """Also in a notebook that has already computed something."""
    ops.ones(1)
    grow_gpu_memory()
    assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"


def in_a_process_with_two_devices(
    workspace: Workspace, last: int, recipe: str = "sgd"
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.model.training.on_two_devices", str(workspace.root), str(last), recipe]
    environment = os.environ | {DEVICES_VARIABLE: "CPU:0,CPU:1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_two_devices_train_as_one_does_also_after_a_kill(workspace: Workspace, content: dict[str, Any]) -> None:
    """The same losses but for rounding: the batch is the global one."""
    params = small(content)
    training = plan_training("idc", "wide_resnet", params, prepare(workspace, params))
    killed = in_a_process_with_two_devices(workspace, 1)
    assert (killed.returncode, killed.stdout.count("finished")) == (9, 1), killed.stderr[-3000:]
    resumed = in_a_process_with_two_devices(workspace, 0)
    assert (resumed.returncode, resumed.stdout.count("finished")) == (0, 2), resumed.stderr[-3000:]
    shared = load_progress(training.checkpoints, "the same training").history
    network = keras.saving.load_model(workspace.root / "model.keras", safe_mode=True)
    assert is_plain(network)

    (training.checkpoints / CHECKPOINT_FILE).unlink()
    alone, history = run(workspace, params)
    np.testing.assert_allclose([row["train/loss"] for row in shared], history["train/loss"], rtol=1e-3)
    np.testing.assert_allclose([row["validation/loss"] for row in shared], history["validation/loss"], rtol=1e-2)
    for ours, theirs in zip(network.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=0.02)


@pytest.mark.long
def test_two_devices_share_an_update_by_adams_kernel(workspace: Workspace, content: dict[str, Any]) -> None:
    params = small(content, "adamw")
    training = plan_training("idc", "wide_resnet", params, prepare(workspace, params))
    done = in_a_process_with_two_devices(workspace, 0, "adamw")
    assert (done.returncode, done.stdout.count("finished")) == (0, 3), done.stderr[-3000:]
    shared = load_progress(training.checkpoints, "the same training").history
    (training.checkpoints / CHECKPOINT_FILE).unlink()
    _, history = run(workspace, params)
    np.testing.assert_allclose([row["train/loss"] for row in shared], history["train/loss"], rtol=1e-2)


@pytest.mark.long
def test_two_devices_share_averaged_weights_and_class_weights(workspace: Workspace, content: dict[str, Any]) -> None:
    params = small(content, "averaged")
    training = plan_training("idc", "wide_resnet", params, prepare(workspace, params, positives=2))
    done = in_a_process_with_two_devices(workspace, 0, "averaged")
    assert (done.returncode, done.stdout.count("finished")) == (0, 3), done.stderr[-3000:]
    shared = load_progress(training.checkpoints, "the same training").history
    network = keras.saving.load_model(workspace.root / "model.keras", safe_mode=True)
    (training.checkpoints / CHECKPOINT_FILE).unlink()
    alone, history = run(workspace, params)
    np.testing.assert_allclose([row["train/loss"] for row in shared], history["train/loss"], rtol=1e-3)
    np.testing.assert_allclose([row["validation/loss"] for row in shared], history["validation/loss"], rtol=1e-2)
    for ours, theirs in zip(network.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=0.02)


def test_a_batch_that_cannot_be_shared_is_named(workspace: Workspace, content: dict[str, Any]) -> None:
    params = small(content)
    plan = plan_training("idc", "wide_resnet", params, prepare(workspace, params))
    three = Devices(shared_by=("GPU:0", "GPU:1", "GPU:2"))
    with pytest.raises(TrainingError, match=r"recipes\.wide_resnet\.batch_size 16 can't be shared evenly by 3"):
        three.share(plan)
    two = Devices(shared_by=("GPU:0", "GPU:1"))
    assert two.share(plan).sharers == 2
    assert Devices().share(plan) == plan


def test_devices_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEVICES_VARIABLE, "CPU:0, GPU:7")
    with pytest.raises(TrainingError, match="HISTOPIPE_DEVICES names GPU:7, which this machine doesn't have"):
        choose_devices(TrainParams(devices="all"))


@pytest.mark.parametrize("fill", ["nearest", "constant", "reflect", "wrap"])
def test_plain_resampling_agrees_with_the_kernel(fill: str) -> None:
    """Up to rounding; `wrap` only where no seam is between a pixel's neighbours."""
    images = np.random.default_rng(0).uniform(0, 255, (8, 13, 17, 3)).astype("float32")
    angles = np.linspace(-3, 3, 8)
    shifts = np.linspace(-6, 6, 8)
    nothing = np.zeros(8)
    rows = [1.1 * np.cos(angles), -np.sin(angles), shifts, np.sin(angles), np.cos(angles), -shifts, nothing, nothing]
    transforms = np.stack(rows, axis=1).astype("float32")
    expected = np.asarray(ops.image.affine_transform(images, transforms, "bilinear", fill))
    error = np.abs(np.asarray(affine_gather(images, transforms, fill)) - expected)
    assert (error < 0.05).mean() > (0.7 if fill == "wrap" else 0.999)


def test_a_step_with_augmentation_can_be_compiled() -> None:
    """By XLA, which doesn't know every kernel of TensorFlow's."""
    inputs = keras.Input((None, None, 3), dtype="uint8")
    augmentation = AugmentationParams(rotation=20, zoom=0.1, shift=0.1, shear=0.1, horizontal_flip=True)
    network = build("wide_resnet", **MODEL)
    trainer = keras.Model(inputs, network(RandomAffine(augmentation, 1, compiled=True)(inputs)))
    trainer.compile("sgd", "binary_crossentropy", jit_compile=True)
    batch = np.random.default_rng(0).integers(0, 256, (4, 50, 50, 3), np.uint8)
    assert np.isfinite(trainer.train_on_batch(batch, np.array([[0.0], [1.0], [0.0], [1.0]])))
