"""Quicker kernels compute what Keras' own layers do and leave no trace in the saved model."""

from __future__ import annotations

import json
import zipfile
from contextlib import nullcontext
from pathlib import Path

import keras
import numpy as np
import pytest

from histopipe.networks.architectures import build
from histopipe.networks.backend import is_on_tensorflow_cpu
from histopipe.training.kernels import FusedBatchNormalization, IntegerDropout, quicker_kernels


def trained(fused: bool) -> tuple[keras.Model, list[float]]:
    """A network after four steps of plain descent, and its losses."""
    keras.utils.set_random_seed(1)
    network = build("cancernet", image_size=16, dropout=0.0, head_dropout=0.0)
    generator = np.random.default_rng(0)
    patches = generator.integers(0, 256, (32, 16, 16, 3), np.uint8)
    labels = (np.arange(32) % 2).astype(np.float32)[:, None]

    def descend() -> list[float]:
        network.compile(keras.optimizers.SGD(0.002), "binary_crossentropy", jit_compile=False)
        return [float(network.train_on_batch(patches, labels)) for _ in range(4)]

    if not fused:
        return network, descend()
    with quicker_kernels(network):
        return network, descend()


@pytest.fixture(scope="module")
def networks() -> tuple[tuple[keras.Model, list[float]], tuple[keras.Model, list[float]]]:
    return trained(fused=False), trained(fused=True)


def test_outputs_gradients_and_averages_are_those_of_the_stock_layer() -> None:
    inputs = keras.random.normal((8, 6, 6, 4), seed=1) * 3 + 1
    weights = np.random.default_rng(0).normal(size=(8, 6, 6, 4)).astype(np.float32)

    def step(fused: bool) -> list[np.ndarray]:
        layer = keras.layers.BatchNormalization()
        network = keras.Sequential([keras.Input((6, 6, 4)), layer])
        layer.gamma.assign([0.5, 1.0, 2.0, 3.0])
        network.compile(keras.optimizers.SGD(1.0), lambda truth, found: keras.ops.sum(truth * found**2))
        with quicker_kernels(network) if fused else nullcontext():
            network.train_on_batch(inputs, weights)
        return [*network.get_weights(), np.asarray(network.predict(inputs, verbose=0))]

    for expected, found in zip(step(fused=False), step(fused=True), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_network_learns_alike(networks: list[tuple[keras.Model, list[float]]]) -> None:
    """Rounding differs in the last digit, which a network in its first steps magnifies."""
    (_, losses), (_, fused_losses) = networks
    assert losses[-1] < 0.3 * losses[0]
    np.testing.assert_allclose(fused_losses, losses, rtol=1e-2)


def test_the_kernel_is_really_used() -> None:
    network = build("cancernet", image_size=16)
    with quicker_kernels(network):
        kinds = {type(layer) for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)}
    assert kinds == {FusedBatchNormalization if keras.backend.backend() == "tensorflow" else next(iter(kinds))}


@pytest.mark.skipif(not is_on_tensorflow_cpu(), reason="dropout by integers is for TensorFlow on a CPU")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5])
def test_dropout_by_integers_drops_its_share_and_keeps_the_mean(rate: float, dtype: str) -> None:
    import tensorflow as tf

    layer, values = keras.layers.Dropout(rate, seed=1, dtype=dtype), tf.fill((7, 333, 33), tf.cast(2.0, dtype))
    with quicker_kernels(keras.Sequential([layer])):
        assert type(layer) is IntegerDropout
        drop = tf.function(
            lambda some: layer(some, training=True), input_signature=[tf.TensorSpec((None, None, 33), dtype)]
        )
        outputs = [drop(values) for _ in range(2)]
        assert (np.asarray(layer(values)) == np.asarray(values)).all()  # outside training
    assert type(layer) is keras.layers.Dropout
    assert {output.dtype.name for output in outputs} == {dtype}
    first, second = (np.asarray(tf.cast(output, "float32")).ravel() for output in outputs)
    assert abs((first == 0).mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / first.size)
    assert abs(first.mean() / 2 - 1) < 0.02
    assert len(np.unique(first)) == 2
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02
    assert max(abs(np.corrcoef(first[step:], first[:-step])[0, 1]) for step in (1, 2, 4, 8)) < 0.02


@pytest.mark.skipif(not is_on_tensorflow_cpu(), reason="dropout by integers is for TensorFlow on a CPU")
def test_what_dropout_drops_gets_no_gradient_and_the_seed_repeats_it() -> None:
    def gradients() -> np.ndarray:
        import tensorflow as tf

        layer, values = keras.layers.Dropout(0.25, seed=7), tf.Variable(np.ones((40, 9), np.float32))
        with quicker_kernels(keras.Sequential([layer])), tf.GradientTape() as tape:
            outputs = layer(values, training=True)
        found = np.asarray(tape.gradient(outputs, values))
        assert (found == np.asarray(outputs)).all()
        return found

    assert (gradients() == gradients()).all()


def test_the_saved_model_holds_stock_layers(networks: list[tuple[keras.Model, list[float]]], tmp_path: Path) -> None:
    _, (fused, _) = networks
    fused.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        config = archive.read("config.json").decode()
    assert "Fused" not in config
    assert json.loads(config)["class_name"] == "Functional"
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    patches = np.random.default_rng(1).integers(0, 256, (8, 16, 16, 3), np.uint8)
    np.testing.assert_allclose(loaded.predict(patches, verbose=0), fused.predict(patches, verbose=0), atol=1e-6)
