"""Backbones: the published networks without their classifiers, fed as their weights expect."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from histopipe.core.errors import ArchitectureError
from histopipe.networks.architectures import backbone_of, build, list_architectures, network_code
from histopipe.networks.architectures.backbones import (
    BACKBONE_LAYER,
    build_backbone,
    candidate_layers,
    list_backbones,
    prepare_for,
)
from histopipe.networks.architectures.blocks import patch_input

SIDE = 80  # pixels; Xception wants 71


def patches(count: int = 3, side: int = SIDE) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (count, side, side, 3), np.uint8)


def pixels_seen(backbone: str, batch: np.ndarray) -> np.ndarray:
    inputs = patch_input()
    return np.asarray(keras.Model(inputs, prepare_for(inputs, batch.shape[1], backbone)).predict(batch, verbose=0))


@pytest.mark.parametrize(
    ("backbone", "module"),
    [
        ("squeezenet", "vgg16"),  # Caffe's preparation, which Keras has for VGG
        ("vgg16", "vgg16"),
        ("resnet50", "resnet50"),
        ("resnet50v2", "resnet_v2"),
        ("densenet201", "densenet"),
        ("xception", "xception"),
        ("inceptionv3", "inception_v3"),
        ("mobilenetv2", "mobilenet_v2"),
        ("nasnetmobile", "nasnet"),
    ],
)
def test_pixels_are_prepared_as_keras_does(backbone: str, module: str) -> None:
    batch = patches()
    expected = getattr(keras.applications, module).preprocess_input(batch.astype("float32"))
    np.testing.assert_allclose(pixels_seen(backbone, batch), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", ["EfficientNetV2B0", "MobileNetV3Small", "EfficientNetV2S"])
def test_scaling_layers_are_replaced_by_the_same_arithmetic(name: str) -> None:
    """Keras' own network, with its scaling layers inside, up to its first convolution."""
    batch = patches()
    own = getattr(keras.applications, name)(weights=None, include_top=False, input_shape=(SIDE, SIDE, 3))
    convolution = next(layer for layer in own.layers if isinstance(layer, keras.layers.Conv2D))
    expected = keras.Model(own.input, convolution.input).predict(batch.astype("float32"), verbose=0)
    np.testing.assert_allclose(pixels_seen(name, batch), expected, rtol=1e-5, atol=1e-4)


def test_efficientnets_weights_and_mending_layer_come_to_imagenets_mean_and_deviation() -> None:
    """Keras publishes variances that hold deviations, and a layer that divides by their roots once more."""
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    batch = patches()
    expected = (batch / 255 - mean) / np.sqrt(deviation) / np.sqrt(deviation)
    np.testing.assert_allclose(pixels_seen("efficientnetb0", batch), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    "backbone",
    [
        *("squeezenet", "alexnet", "vgg16", "mobilenetv3small"),
        *(pytest.param(name, marks=pytest.mark.long) for name in ("efficientnetb0", "xception", "densenet121")),
    ],
)
def test_a_network_on_any_backbone_is_of_stock_layers_and_loads_safely(backbone: str, tmp_path: Path) -> None:
    network = build("transfer", image_size=SIDE, backbone=backbone)
    scaling = (keras.layers.Rescaling, keras.layers.Normalization, keras.layers.Lambda)
    assert not [layer for layer in network._flatten_layers() if isinstance(layer, scaling)]
    network.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras", safe_mode=True)
    batch = patches(side=50)
    expected = network.predict(batch, verbose=0)
    np.testing.assert_array_equal(loaded.predict(batch, verbose=0), expected)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(loaded(batch)), expected, atol=1e-5)


@pytest.mark.parametrize(
    "backbone", ["squeezenet", "alexnet", "vgg16", "resnet50", "xception", "densenet121", "inceptionv3", "mobilenetv2"]
)
def test_candidates_are_maps_of_the_backbone_early_ones_first(backbone: str) -> None:
    extractor = build_backbone(backbone, SIDE)
    names = candidate_layers(backbone, extractor)
    sides = [extractor.get_layer(name).output.shape[1] for name in names]
    assert 3 <= len(names) <= 5
    assert sides == sorted(sides, reverse=True)
    assert names == candidate_layers(backbone, build_backbone(backbone, SIDE))  # no generated names


def test_parameter_counts_are_those_of_the_papers() -> None:
    def convolution(side: int, a: int, b: int) -> int:
        return side * side * a * b + b

    widths = [(64, 16, 64), (128, 16, 64), (128, 32, 128), (256, 32, 128), (256, 48, 192), (384, 48, 192)]
    widths += [(384, 64, 256), (512, 64, 256)]
    fires = sum(convolution(1, a, s) + convolution(1, s, e) + convolution(3, s, e) for a, s, e in widths)
    assert build_backbone("squeezenet", 64).count_params() == convolution(3, 3, 64) + fires == 722_496

    tower = ((11, 3, 96), (5, 96, 256), (3, 256, 384), (3, 384, 384), (3, 384, 256))
    assert build_backbone("alexnet", 64).count_params() == sum(convolution(*each) for each in tower) == 3_747_200


def test_densenet201_has_the_weights_of_the_paper_count() -> None:
    """Table 1 of the paper: growth 32, bottlenecks of 128, halving between blocks of 6, 12, 48 and 32 layers."""
    total, channels = 49 * 3 * 64 + 4 * 64, 64
    for depth in (6, 12, 48, 32):
        for _ in range(depth):
            total += 4 * channels + channels * 128 + 4 * 128 + 9 * 128 * 32
            channels += 32
        if depth != 32:
            total += 4 * channels + channels * channels // 2
            channels //= 2
    total += 4 * channels
    network = build("densenet201", image_size=64)
    assert network.get_layer(BACKBONE_LAYER).count_params() == total == 18_321_984
    assert network.count_params() == total + 4 * channels + channels + 1
    frozen = sum(weight.shape[0] for weight in network.non_trainable_weights)
    norms = [layer for layer in network._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    assert frozen == sum(2 * layer.gamma.shape[0] for layer in norms)  # their statistics: all else is trained


def test_only_the_head_is_trained_where_asked() -> None:
    network = build("transfer", image_size=48, trainable="head")
    network.compile("sgd", "binary_crossentropy", jit_compile=False)
    before = [np.array(weight) for weight in network.get_layer(BACKBONE_LAYER).weights]
    network.train_on_batch(patches(8), np.arange(8)[:, None] % 2)
    for weight, old in zip(network.get_layer(BACKBONE_LAYER).weights, before, strict=True):
        np.testing.assert_array_equal(weight, old)
    assert len(network.trainable_weights) == 4  # batch norm and unit


def test_an_unknown_backbone_names_the_nearest() -> None:
    with pytest.raises(ArchitectureError, match="unknown backbone 'resnet51'; did you mean 'resnet50'"):
        build("features", backbone="resnet51")
    assert {"squeezenet", "alexnet", "vgg16", "densenet201", "efficientnetb0"} <= set(list_backbones())


def test_names_of_backbones_are_known_in_any_case() -> None:
    assert build_backbone("VGG16", 48).count_params() == build_backbone("vgg16", 48).count_params() == 14_714_688


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"backbone": "xception", "image_size": 48}, "71"),
        ({"layer": "fire10_concat"}, "no layer 'fire10_concat' with a map of features; it has .*fire9_concat"),
    ],
)
def test_what_a_backbone_cannot_do_is_one_line(params: dict[str, object], said: str) -> None:
    with pytest.raises(ArchitectureError, match=said) as caught:
        build("features", **params)
    assert "\n" not in str(caught.value)


def test_shared_modules_are_no_architectures() -> None:
    assert {"transfer", "features", "densenet201", "cancernet"} <= set(list_architectures())
    assert not {"blocks", "backbones"} & set(list_architectures())


def test_the_code_of_a_network_is_what_it_imports() -> None:
    def names(architecture: str) -> set[str]:
        return {path.name for path in network_code(architecture)}

    assert names("cancernet") == {"cancernet.py", "blocks.py"}
    assert {"densenet201.py", "transfer.py", "published.py", "blocks.py"} < names("densenet201")
    assert "features.py" not in names("densenet201")


def test_which_backbone_an_architecture_has() -> None:
    assert backbone_of("cancernet", {}) is None
    assert backbone_of("densenet201", {"dropout": 0.1}) == "densenet201"
    assert backbone_of("transfer", {"backbone": "vgg16"}) == "vgg16"
    assert backbone_of("features", {}) == "squeezenet"
