"""Maps of every architecture: what they are of, that they sum to the logit, and that they find what decides."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
from keras import layers

from histopipe.core.errors import EvaluationError
from histopipe.core.files import read_json, write_json
from histopipe.core.params import Params
from histopipe.data.store import INDEX_FILE, REPORT_FILE, PatchStore, shard_name
from histopipe.evaluation.calibration import Calibration
from histopipe.evaluation.explanation.check import BETTER, UNDECIDED, check_maps
from histopipe.evaluation.explanation.maps import Explainer
from histopipe.evaluation.explanation.references import random_weights
from histopipe.evaluation.explanation.stage import explain_evaluation, predictor
from histopipe.networks.architectures.blocks import OUTPUT_LAYER, patch_input, probability, rescale
from histopipe.networks.prediction import logit_network
from histopipe.networks.symmetry import averaged_over_symmetries
from histopipe.networks.temperature import calibrated
from tests.builders.networks import HASTE, every_architecture, patches, tiny
from tests.builders.paths import ROOT

AS_TRAINED = Calibration(1.0, 0.0)


def logits(network: keras.Model, batch: np.ndarray) -> np.ndarray:
    return keras.ops.convert_to_numpy(logit_network(network)(batch))[:, 0]


def stirred(name: str) -> Any:
    """A network whose batch norms and biases aren't at their neutral start."""
    network = tiny(name)
    weights = enumerate(network.get_weights())
    network.set_weights([weight + 0.01 * (number % 10) * (weight.ndim == 1) for number, weight in weights])
    return network


def last_maps(network: keras.Model) -> str:
    """Name of the last layer that keeps places apart at all; that of a backbone, where it ends in one."""
    kept = [layer.name for layer in network.layers if len(getattr(layer.output, "shape", ())) == 4]
    return "backbone" if "backbone" in [layer.name for layer in network.layers] else kept[-1]


@every_architecture
def test_every_architecture_is_explained_at_the_size_of_its_patches(name: str) -> None:
    network = stirred(name)
    explainer = Explainer.for_network(network)
    assert min(explainer.cut.shape[:2]) >= 4
    for size in (32, 50):
        maps = explainer.maps(patches(3, size))
        assert maps.shape == (3, size, size) and maps.dtype == np.float32
        assert np.isfinite(maps).all() and (np.ptp(maps, axis=(1, 2)) > 0).all()
    batch = patches(5)
    before = network.predict(batch, verbose=0)
    np.testing.assert_allclose(explainer.maps(batch)[:2], explainer.maps(batch[:2]), rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(network.predict(batch, verbose=0), before)


@pytest.mark.parametrize("name", ["histonet", "resnet", "transfer", "features"])
def test_maps_sum_to_the_logit_where_a_linear_layer_follows(name: str) -> None:
    """Pooling and a linear layer, and at most a batch norm between, which adds the same to every patch."""
    network, batch = stirred(name), patches(6)
    found = logits(network, batch) - Explainer.for_network(network, last_maps(network)).evidence(batch).sum(axis=(1, 2))
    assert np.ptp(logits(network, batch)) > 100 * np.ptp(found)
    if name != "transfer":
        assert found == pytest.approx(network.get_layer(OUTPUT_LAYER).get_weights()[1][0], abs=1e-4)


def test_maps_of_an_average_over_symmetries_sum_to_its_logit_and_turn_with_the_patch() -> None:
    single = stirred("histonet")
    network, batch = averaged_over_symmetries(single), patches(4, 32)
    explainer = Explainer.for_network(network, last_maps(single))
    bias = network.get_layer(OUTPUT_LAYER).get_weights()[1][0]
    np.testing.assert_allclose(explainer.evidence(batch).sum(axis=(1, 2)), logits(network, batch) - bias, atol=1e-4)
    turned = np.ascontiguousarray(np.rot90(batch, axes=(1, 2)))
    maps = Explainer.for_network(network).maps(batch)
    np.testing.assert_allclose(Explainer.for_network(network).maps(turned), np.rot90(maps, axes=(1, 2)), atol=1e-5)
    assert np.abs(maps - Explainer.for_network(single).maps(batch)).max() > 1e-4


def test_patches_that_are_not_square_keep_their_shape_in_an_average_too() -> None:
    batch = np.random.default_rng(0).integers(0, 256, (2, 23, 35, 3), np.uint8)
    assert Explainer.for_network(averaged_over_symmetries(tiny("histonet"))).maps(batch).shape == (2, 23, 35)


def test_calibration_divides_the_maps_and_leaves_their_order() -> None:
    network, batch = stirred("cancernet"), patches(3)
    expected = Explainer.for_network(network).maps(batch) / 2.5
    with calibrated(network, 2.5, 0.7):
        np.testing.assert_allclose(Explainer.for_network(network).maps(batch), expected, atol=1e-5)


def test_a_network_explained_can_still_be_saved_and_served(tmp_path: Path) -> None:
    network, batch = stirred("transfer"), patches(3)
    expected = network.predict(batch, verbose=0)
    Explainer.for_network(network).maps(batch)
    with calibrated(network, 1.0):
        network.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False, safe_mode=True)
    np.testing.assert_allclose(loaded.predict(batch, verbose=0), expected, atol=1e-6)


def test_a_layer_can_be_named_also_inside_a_backbone() -> None:
    network = tiny("transfer")
    explainer = Explainer.for_network(network, "fire5_concat")
    assert explainer.cut.shape == (3, 3, 256)
    assert explainer.evidence(patches(2)).shape == (2, 3, 3)
    found = Explainer.for_network(network).cut
    assert (found.layer, found.shape) == ("fire3_concat", (7, 7, 128)), (
        "the last layer of this image size has one place"
    )


@pytest.mark.parametrize("layer", ["conv9", "fire3_expand1x1", OUTPUT_LAYER, "patch"])
def test_what_cannot_be_cut_there_is_refused_in_one_line(layer: str) -> None:
    with pytest.raises(EvaluationError, match=rf"can't be explained by its layer '{layer}'") as problem:
        Explainer.for_network(tiny("transfer"), layer)
    assert "\n" not in str(problem.value)


def test_a_network_without_places_is_refused() -> None:
    inputs = patch_input()
    network = keras.Model(inputs, probability(layers.GlobalAveragePooling2D()(rescale(inputs, 8))))
    with pytest.raises(EvaluationError, match="can't be explained by any of its layers"):
        Explainer.for_network(network)


def bright_spots(count: int = 48, size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Noise, and a bright square in every other patch; where the squares are."""
    random = np.random.default_rng(5)
    found = random.integers(40, 140, (count, size, size, 3))
    inside = np.zeros((count, size, size), bool)
    for number, (top, left) in enumerate(random.integers(1, size - 9, (count, 2))):
        inside[number, top : top + 8, left : left + 8] = number % 2 == 0
    return np.where(inside[..., np.newaxis], 235, found).astype(np.uint8), inside


def spot_network() -> keras.Model:
    """Answers to what stays bright in the mean over 5 x 5 pixels, by weights set by hand."""
    inputs = patch_input()
    mean = layers.Conv2D(1, 5, padding="same", activation="relu", name="bright")
    x = mean(rescale(inputs, 32))
    network = keras.Model(inputs, probability(layers.GlobalAveragePooling2D()(x)))
    mean.set_weights([np.full((5, 5, 3, 1), 1 / 75, "float32"), np.array([-0.6], "float32")])
    network.get_layer(OUTPUT_LAYER).set_weights([np.array([[1000.0]], "float32"), np.array([-3.0], "float32")])
    return network


def test_where_a_bright_square_decides_the_map_lies_on_it_and_is_better_than_chance() -> None:
    batch, inside = bright_spots()
    network, bright = spot_network(), inside.any(axis=(1, 2))
    called = (logits(network, batch) > 0).astype(int)
    assert (called == bright).all()
    maps = Explainer.for_network(network).maps(batch)
    mass = np.abs(maps)[bright]
    assert (mass * inside[bright]).sum() > 0.9 * mass.sum()
    cases = pd.Series(np.arange(len(batch)) % 12).astype(str)[bright]
    watch = predictor(network, AS_TRAINED)
    found = check_maps(batch[bright], maps[bright], called[bright], cases, watch, resamples=500, seed=0)
    assert found["verdict"] == BETTER
    assert found["deletion"]["map"]["value"] < 0.5 * found["deletion"]["chance"]["value"]
    assert found["insertion"]["gain"]["low"] > 0
    elsewhere = maps[bright][::-1]  # another patch's map
    found = check_maps(batch[bright], elsewhere, called[bright], cases, watch, resamples=500, seed=0)
    assert found["verdict"] == UNDECIDED


def dark_spot_network() -> keras.Model:
    """Answers to what stays dark in the mean over 5 x 5 pixels: as plain darkness would, put into a network."""
    network = spot_network()
    network.get_layer("bright").set_weights([np.full((5, 5, 3, 1), -1 / 75, "float32"), np.array([0.4], "float32")])
    return network


def stored_spots(folder: Path, dark: bool) -> tuple[PatchStore, pd.DataFrame]:
    """Patches with a spot in a store, and their table as tested; the spot is bright, or dark on a bright patch."""
    batch, inside = bright_spots(96)
    batch = np.where(dark, 255 - batch, batch).astype(np.uint8)
    spotted = inside.any(axis=(1, 2))
    cases = [f"C{number % 12:02}" for number in np.arange(len(batch)) // 2]
    index = pd.DataFrame({"file": [f"{number}.png" for number in range(len(batch))], "case_id": cases})
    index = index.assign(label=spotted.astype(int), shard=0, row=range(len(batch)))
    folder.mkdir()
    np.save(folder / shard_name(0), batch)
    index.to_parquet(folder / INDEX_FILE, index=False)
    write_json(folder / REPORT_FILE, {"patch_size": list(batch.shape[1:3]), "patches": len(batch)})
    table = index[["file", "case_id", "label"]].assign(split="test", probability=0.5, decision=spotted.astype(int))
    return PatchStore.open(folder), table.assign(row=range(len(batch)))[spotted].reset_index(drop=True)


@pytest.mark.parametrize("dark", [True, False])
def test_maps_are_held_against_darkness_and_a_network_with_random_weights(
    tmp_path: Path, params: Params, dark: bool
) -> None:
    store, table = stored_spots(tmp_path / "store", dark)
    network = dark_spot_network() if dark else spot_network()
    before = network.get_weights()
    folder = tmp_path / "evaluation"
    (folder / "figures").mkdir(parents=True)
    point = {"temperature": 1.0, "offset": 0.0, "threshold": 0.5, "data_set": "spots"}
    point |= {"negative_class": "plain", "positive_class": "spotted"}
    found = explain_evaluation(network, table, store, point, "spots", params, folder)
    chance, darkness, random_weights = found["verdict"].split("; ")
    assert (chance, random_weights) == (BETTER, "better than random weights")
    assert (darkness == "better than darkness") == (not dark), "what a dark spot decides, darkness finds as well"
    gain = found["references"]["darkness"]["gain"]
    assert gain["low"] <= gain["value"] <= gain["high"]
    assert (gain["low"] > 0) == (not dark)
    assert found == read_json(folder / "explanation.json")
    for kept, now in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(now, kept)


@pytest.mark.parametrize("name", ["cancernet", "histonet", "resnet", "transfer"])
def test_random_weights_are_another_network_for_a_while(name: str) -> None:
    network, batch = stirred(name), patches(3)
    before, explainer = network.get_weights(), Explainer.for_network(network)
    maps = explainer.maps(batch)
    with random_weights(network, 1):
        one = explainer.maps(batch)
    with random_weights(network, 1):
        same = explainer.maps(batch)
    assert np.isfinite(one).all() and (np.ptp(one, axis=(1, 2)) > 0).all()
    np.testing.assert_array_equal(same, one)
    assert max(np.abs(np.corrcoef(one[number].ravel(), maps[number].ravel())[0, 1]) for number in range(3)) < 0.99
    for kept, now in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(now, kept)


@pytest.mark.long  # without a graph to compile, JAX compiles every operation
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_maps_are_the_same_on(backend: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"needs {backend}: install the `dev` extra" if backend == "jax" else f"{backend} is not installed")
    batch = patches(3, 40)
    np.save(tmp_path / "patches.npy", batch)
    networks = {"nested": stirred("transfer"), "averaged": averaged_over_symmetries(stirred("histonet"))}
    for name, network in networks.items():
        network.save(tmp_path / f"{name}.keras")
        np.save(tmp_path / f"{name}.npy", Explainer.for_network(network).maps(batch))
    environment = os.environ | {"KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": HASTE}
    command = [sys.executable, "-m", "tests.model.evaluation.explain_on_backend", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"backend: {backend}" in done.stdout
