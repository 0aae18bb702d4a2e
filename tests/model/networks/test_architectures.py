"""What every registered architecture must do."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from histopipe.core.errors import ArchitectureError
from histopipe.networks.architectures import build, list_architectures
from histopipe.networks.architectures.blocks import OUTPUT_LAYER
from histopipe.networks.prediction import for_prediction
from tests.builders.networks import every_architecture, patches, settled, tiny

FITTED = {"features"}  # learn by a classifier on a frozen backbone: tests/model/training/test_features.py


@every_architecture
@pytest.mark.parametrize("size", [48, 50, 64, 224])
def test_the_full_network_can_be_built_for_every_size(name: str, size: int) -> None:
    network = build(name, image_size=size)
    assert network.input.dtype == "uint8"
    assert network.input.shape == (None, None, None, 3)
    assert network.output.dtype == "float32"
    assert network.compute_output_shape((5, size, size, 3)) == (5, 1)
    assert network.get_layer(OUTPUT_LAYER).output.shape == (None, 1)
    probability = np.asarray(network(patches(1, size)))
    assert probability.shape == (1, 1) and 0 <= probability.item() <= 1


@pytest.mark.parametrize("name", list_architectures())
def test_any_patch_size_gives_one_probability_each(name: str) -> None:
    network = tiny(name)
    for size in (48, 50, 64, 224):
        probabilities = np.asarray(network(patches(3, size)))
        assert probabilities.shape == (3, 1)
        assert probabilities.dtype == np.float32
        assert ((probabilities >= 0) & (probabilities <= 1)).all()


@every_architecture
def test_predict_call_and_saved_file_agree(name: str, tmp_path: Path) -> None:
    import keras

    network, batch = settled(name), patches(16)
    expected = network.predict(batch, verbose=0)
    assert np.isfinite(expected).all() and np.ptp(expected) > 1e-5
    # rounding grows with depth; training mode would be off by a hundredth at least
    np.testing.assert_allclose(keras.ops.convert_to_numpy(network(batch)), expected, rtol=0, atol=1e-4)
    network.save(tmp_path / "network.keras")
    loaded = for_prediction(keras.saving.load_model(tmp_path / "network.keras", safe_mode=True))
    np.testing.assert_array_equal(loaded.predict(batch, verbose=0), expected)


@every_architecture
def test_training_reaches_every_weight_and_learns_a_few_patches_by_heart(name: str) -> None:
    """No weight is left out of the graph or frozen by accident; a branch that starts at zero needs a second step."""
    network = tiny(name)
    before = [np.array(variable) for variable in network.trainable_variables]
    batch, labels = patches(32), (np.arange(32) % 2).astype("float32")[:, None]
    metrics = ["binary_crossentropy", "binary_accuracy"]
    network.compile("adam", "binary_crossentropy", metrics=metrics, jit_compile=False)  # as in training

    def step() -> tuple[float, float]:
        network.reset_metrics()
        found = network.train_on_batch(batch, labels, return_dict=True)
        return float(found["binary_crossentropy"]), float(found["binary_accuracy"])

    (first, _), _ = step(), step()
    for variable, old in zip(network.trainable_variables, before, strict=True):
        assert (np.array(variable) != old).any(), variable.path
    if name not in FITTED:
        learnt = ((loss < 0.35 * first and accuracy > 0.95) for loss, accuracy in (step() for _ in range(58)))
        assert any(learnt)  # the deep ones take a second a step: no more than needed


def separable(a: int, b: int) -> int:
    """Weights of a separable 3x3 convolution from a to b channels."""
    return 9 * a + a * b + b


def test_cancernet_has_the_weights_of_the_paper_count() -> None:
    """Counted on paper for 48 px."""
    channels = [(3, 32), (32, 64), (64, 64), (64, 128), (128, 128), (128, 128)]
    convolutions = sum(separable(a, b) + 4 * b for a, b in channels)  # each with a batch norm of 4 per channel
    head = 6 * 6 * 128 * 256 + 256 + 4 * 256 + 256 + 1
    assert build("cancernet").count_params() == convolutions + head == 1_234_876


def bottleneck(a: int, b: int) -> int:
    """Weights of a module from a to b channels: 1x1, 3x3 and 1x1, with batch norms of 4 per channel before each."""
    quarter = b // 4
    return 4 * a + a * quarter + 4 * quarter + 9 * quarter**2 + 4 * quarter + quarter * b


def test_resnet_has_the_weights_of_the_paper_count() -> None:
    """Counted on paper; the tutorial's file of 17.7 MB holds them and a momentum for each that is trained."""
    stem = 4 * 3 + 25 * 3 * 64 + 4 * 64
    stages = sum(
        bottleneck(a, b) + a * b + (depth - 1) * bottleneck(b, b)
        for a, b, depth in ((64, 128, 3), (128, 256, 4), (256, 512, 6))
    )
    network = build("resnet")
    assert network.count_params() == stem + stages + 4 * 512 + 512 + 1 == 2_163_661
    trained = sum(math.prod(variable.shape) for variable in network.trainable_variables)
    megabytes = 4 * (network.count_params() + trained) / 1e6
    assert 17.2 < megabytes < 17.7  # the rest of the file says how the layers hang together


def wide_body(depth: int, width: int) -> int:
    """Trained weights of WRN-depth-width before its head: a batch norm trains 2 per channel, the last one too."""
    total, a = 9 * 3 * 16, 16
    for filters in (16 * width, 32 * width, 64 * width):
        total += 2 * a + 9 * a * filters + 2 * filters + 9 * filters**2 + a * filters
        total += ((depth - 4) // 6 - 1) * (2 * (2 * filters + 9 * filters**2))
        a = filters
    return total + 2 * a


@pytest.mark.parametrize(("depth", "width", "millions"), [(16, 4, 2.7), (40, 4, 8.9), (28, 10, 36.5)])
def test_wide_resnet_has_the_weights_of_the_paper_count(depth: int, width: int, millions: float) -> None:
    """The paper's figure is with ten classes behind the body; its tables cut 2.75 and 8.95 off."""
    channels = 64 * width
    paper = (wide_body(depth, width) + 10 * channels + 10) / 1e6
    assert millions <= paper + 0.05 and paper < millions + 0.05
    network = build("wide_resnet", depth=depth, width=width)
    trained = sum(math.prod(variable.shape) for variable in network.trainable_variables)
    assert trained == wide_body(depth, width) + channels * 20 + 20 + 20 + 1


def test_the_weights_that_the_sources_penalise_are() -> None:
    """The tutorial's 5e-4 at both ends and its modules' own 1e-4; the paper's decay, of half the squares."""
    for name, ends, between in (("resnet", 5e-4, 1e-4), ("wide_resnet", 2.5e-4, 2.5e-4)):
        kernels = [layer for layer in build(name).layers if hasattr(layer, "kernel_regularizer")]
        assert len(kernels) > 10
        penalties = [float(layer.kernel_regularizer.l2) for layer in kernels]
        assert penalties == pytest.approx([ends, *[between] * (len(kernels) - 2), ends])


def test_the_tutorials_resnet_pools_eight_by_eight() -> None:
    network = build("resnet", image_size=64)
    (average,) = (layer for layer in network.layers if "average" in layer.name)
    assert average.input.shape == (None, 8, 8, 512)


def test_dropout_stands_between_the_convolutions_of_every_block() -> None:
    layers = [type(layer).__name__ for layer in build("wide_resnet", dropout=0.3).layers]
    assert layers.count("Dropout") == 6
    assert "Dropout" not in [type(layer).__name__ for layer in build("wide_resnet").layers]


def test_an_unknown_architecture_names_the_nearest() -> None:
    with pytest.raises(ArchitectureError, match="unknown architecture 'cancernett'; did you mean 'cancernet'"):
        build("cancernett")


def test_an_unknown_model_parameter_is_named() -> None:
    with pytest.raises(ArchitectureError, match="cancernet takes no 'drop_out' under `model`"):
        build("cancernet", drop_out=0.5)


@every_architecture
@pytest.mark.parametrize(
    "size", [0, -64, 10**9, 64.5, True, "64", "__import__('os')", math.nan, math.inf, [64], None, {}]
)
def test_a_strange_image_size_ends_with_one_line(name: str, size: Any) -> None:
    with pytest.raises(ArchitectureError, match="image_size") as caught:
        build(name, image_size=size)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("cancernet", "dropout", 1.5),
        ("cancernet", "head_dropout", math.nan),
        ("resnet", "l2", -math.inf),
        ("resnet", "l2", "strong"),
        ("resnet", "module_l2", True),
        ("resnet", "module_l2", -1.0),
        ("wide_resnet", "depth", 17),
        ("wide_resnet", "depth", 4),
        ("wide_resnet", "depth", 10**12),
        ("wide_resnet", "width", 0),
        ("wide_resnet", "width", 10**9),
        ("wide_resnet", "dropout", -0.1),
        ("wide_resnet", "weight_decay", "much"),
        ("wide_resnet", "weight_decay", -1.0),
    ],
)
def test_a_strange_model_parameter_ends_with_one_line(name: str, key: str, value: Any) -> None:
    with pytest.raises(ArchitectureError, match=f"{name}.*{key}") as caught:
        build(name, **{key: value})
    assert "\n" not in str(caught.value)
